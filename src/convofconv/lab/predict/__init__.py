"""Images given to the folded network of a finished run: what it says about them, drawn and as numbers."""
