"""One training run, from a recipe to a folded network."""
