"""The recipe: its schema, how it is read, checked and joined with the DeepSpeed config."""
