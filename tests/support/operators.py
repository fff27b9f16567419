"""Compiles DeepSpeed's CPU communication operator before the first ranks start."""

from __future__ import annotations

from launcher.cluster.node.compile_caches import clear_dead_locks, extensions_folder


def build_operators() -> None:
    """Compile it (15-60 s, once), unless it is there; locks of killed tests hold nobody up."""
    import torch
    from deepspeed.comm.torch import build_shm_op

    torch.set_num_threads(1)
    clear_dead_locks(extensions_folder())
    build_shm_op()
