"""One training run, rank by rank."""
