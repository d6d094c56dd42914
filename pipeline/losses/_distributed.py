"""Rows and means of a tensor over all processes of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """While this is active, the process does not communicate: for computations that other processes do not run."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def _several() -> bool:
    return not _alone.get() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def mean_over_processes(x: Tensor) -> Tensor:
    """Mean of x, of one shape in every process, without gradient; x itself for one process."""
    if not _several():
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def gather_rows(x: Tensor) -> Tensor:
    """Rows (n, ...) of all processes in rank order, where n may differ, without gradient; x itself for one process."""
    if not _several():
        return x
    processes = dist.get_world_size()
    count = torch.tensor([len(x)], device=x.device)
    counts = [torch.zeros_like(count) for _ in range(processes)]
    dist.all_gather(counts, count)
    longest = int(torch.stack(counts).max())
    padded = x.new_zeros((longest, *x.shape[1:]))
    padded[: len(x)] = x.detach()
    gathered = [torch.empty_like(padded) for _ in range(processes)]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[: int(n)] for rows, n in zip(gathered, counts, strict=True)])
