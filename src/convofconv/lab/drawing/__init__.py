"""Drawings of what a network says about an image."""
