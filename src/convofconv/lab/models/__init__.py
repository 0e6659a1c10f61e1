"""Networks of the lab."""
