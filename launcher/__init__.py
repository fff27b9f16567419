"""Fine-tune models that are too large for one card: one recipe, one DeepSpeed config."""

__version__ = "0.1.0"
