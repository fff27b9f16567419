"""Tests: unit (no processes), ranks (forked gloo + real DeepSpeed), e2e (the real commands)."""
