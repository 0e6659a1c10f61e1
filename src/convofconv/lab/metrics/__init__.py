"""What networks are measured by, one file per kind of answer."""
