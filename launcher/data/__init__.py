"""Rows in, memory-mapped tokens and a sample order out."""
