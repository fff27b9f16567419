"""Slurm: from a recipe to a job, and what the queue says of it."""
