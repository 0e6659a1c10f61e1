"""``coc demo``: methods side by side on small pictures, folded, compared and drawn."""
