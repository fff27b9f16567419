"""One node: starts its ranks, watches them, and ends them when one of them has failed."""
