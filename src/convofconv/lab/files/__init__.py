"""Files of runs: written whole or not at all, read without executing code."""
