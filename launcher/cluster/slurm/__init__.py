"""Slurm: what is submitted, what runs in the job, what it is asked afterwards."""
