"""A recipe, everything that decides a training run: what it may say, where it is found, and how two are compared."""
