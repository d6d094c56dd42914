"""Blocks of a computation that does not fit in memory as a whole. An estimate of memory computes the first block alone.

A trace of every block of a step takes minutes: on a CPU, CIRKD has thousands of blocks at 16 images of 368x480.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor

Block = TypeVar("Block")
_counted_for: ContextVar[torch.device | None] = ContextVar("counted_for", default=None)


@contextmanager
def first_block_only(device: torch.device) -> Iterator[None]:
    """While this is active, a computation in blocks computes its first block alone, of the size for ``device``.

    Its values are then wrong and its peak of memory is right. It is for tensors without data, see
    :mod:`pipeline.training.memory`.
    """
    token = _counted_for.set(device)
    try:
        yield
    finally:
        _counted_for.reset(token)


def to_compute(blocks: Sequence[Block]) -> Sequence[Block]:
    """All blocks; under :func:`first_block_only` the first alone. No other block may allocate more than the first."""
    return blocks if _counted_for.get() is None else blocks[:1]


def device_of(x: Tensor) -> torch.device:
    """The device that decides how large blocks are: that of x, except under :func:`first_block_only`."""
    return _counted_for.get() or x.device
