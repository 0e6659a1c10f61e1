"""``coc report``: one HTML page about finished runs, with every number as JSON."""
