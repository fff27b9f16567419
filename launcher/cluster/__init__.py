"""Where a run is carried: this machine now, Slurm later."""
