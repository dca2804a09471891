"""Which loss is best: runs with paired seeds, their statistics, and the report."""
