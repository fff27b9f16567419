"""Ranks agree, then act: the few small collectives that the loop's decisions rest on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist


def sum_over_ranks(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the float64 sum over all ranks of a small vector; equal on every rank."""
    summed = values.to(device=device, dtype=torch.float64)
    dist.all_reduce(summed, op=dist.ReduceOp.SUM)
    return summed.cpu()


def all_agree(yes: bool, device: torch.device) -> bool:
    """Return whether every rank says yes."""
    vote = torch.tensor([1.0 if yes else 0.0], dtype=torch.float64, device=device)
    dist.all_reduce(vote, op=dist.ReduceOp.MIN)
    return bool(vote.item() == 1.0)


def maximum_over_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    """Return the largest of each value over all ranks."""
    largest = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return [float(value) for value in largest.tolist()]


def first_trouble(trouble: str | None, device: torch.device) -> str | None:
    """Return the trouble of the lowest rank that has any, on every rank; None if none has."""
    if all_agree(trouble is None, device):
        return None
    told: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(told, trouble)
    return next(f"rank {rank}: {text}" for rank, text in enumerate(told) if text is not None)


def decided_by_main(value: int, device: torch.device) -> int:
    """Return rank 0's value on every rank, so that a difference between ranks can't split them."""
    decision = torch.tensor([value], dtype=torch.int64, device=device)
    dist.broadcast(decision, src=0)
    return int(decision.item())


def values_of_main(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """Return rank 0's values under the same names on every rank."""
    shared = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    dist.broadcast(shared, src=0)
    return dict(zip(values, shared.tolist(), strict=True))
