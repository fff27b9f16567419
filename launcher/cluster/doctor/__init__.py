"""What this machine, or this allocation, can do, and what is missing."""
