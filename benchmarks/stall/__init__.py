"""What `benchmarks/save_stall.py` is made of."""
