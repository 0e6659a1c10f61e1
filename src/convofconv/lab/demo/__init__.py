"""``coc demo``: methods side by side on small images, folded, compared and drawn."""
