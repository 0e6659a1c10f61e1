"""Training runs from the command line: recipe, trainer, resuming, and what a run leaves behind."""
