"""Studies: grids of runs behind the tables and figures, their records, statistics and reports."""
