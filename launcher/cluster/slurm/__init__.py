"""Slurm: submits a run as a job, and decides at the end of each step whether the job goes on."""
