"""Changing models: which convs are converted, how a converted conv behaves, and folding it back."""
