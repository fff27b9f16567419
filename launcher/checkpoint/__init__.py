"""State that survives: committed checkpoints and exported weights."""
