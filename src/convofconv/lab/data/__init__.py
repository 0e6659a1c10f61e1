"""Data sets, augmentation and loaders of the lab."""
