"""Where a run is carried: this machine, several nodes, a Slurm allocation."""
