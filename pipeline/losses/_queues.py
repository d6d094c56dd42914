"""Memory of teacher vectors by class, written and sampled without loops."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.losses._distributed import gather_rows


class ClassQueues(nn.Module):
    """One ring buffer of vectors per class; only filled slots are sampled.

    State (buffers without gradient, in the loss's ``state_dict``): ``vectors`` (K, length, C), ``pointer`` (K,) the
    next slot to write, ``filled`` (K,) the number of slots that hold a vector. In data-parallel training every process
    appends the vectors of all processes, in rank order, so the buffers stay equal without a broadcast.

    Args:
        num_classes: K.
        length: slots per class.
        channels: C.
    """

    vectors: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, *, num_classes: int, length: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(num_classes, length, channels))
        self.register_buffer("pointer", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros(num_classes, dtype=torch.int64))

    @property
    def length(self) -> int:
        return self.vectors.shape[1]

    @torch.no_grad()
    def append(self, vectors: Tensor, classes: Tensor) -> None:
        """Write vectors (n, C) of classes (n,) in their order, over the oldest of each class."""
        vectors, classes = gather_rows(vectors), gather_rows(classes)
        order = classes.argsort(stable=True)
        vectors, classes = vectors[order], classes[order]
        rank, counts = _rank_and_counts(classes, groups=len(self.pointer))
        # Only then may a class have more than fit. The host waits for the size of a masked tensor, so mask only here.
        if len(vectors) > self.length:
            kept = rank >= counts[classes] - self.length  # the newest
            vectors, classes, rank = vectors[kept], classes[kept], rank[kept]
        slot = (self.pointer[classes] + rank) % self.length
        self.vectors[classes, slot] = vectors.to(self.vectors.dtype)
        self.pointer.copy_((self.pointer + counts) % self.length)
        self.filled.copy_((self.filled + counts).clamp(max=self.length))

    @torch.no_grad()
    def sample(self, each: int, generator: torch.Generator) -> Tensor:
        """Up to ``each`` different vectors of every class, (M, C); the same slots for every class that is full."""
        slots = torch.randperm(self.length, generator=generator)
        if self.vectors.is_cuda:  # from page-locked memory the copy waits for nothing
            slots = slots.pin_memory()
        slots = slots.to(self.vectors.device, non_blocking=True)
        usable = slots < self.filled[:, None]  # (K, length)
        chosen = usable & (usable.cumsum(dim=1) <= each)
        classes, position = chosen.nonzero(as_tuple=True)
        return self.vectors[classes, slots[position]]


def random_members(labels: Tensor, *, each: int, num_classes: int) -> Tensor:
    """Indices into the flattened labels: up to ``each`` random pixels of every class of every image.

    Args:
        labels: (N, A) class ids; ids outside 0..K-1 belong to no class.

    Returns:
        (n,) int64, ordered by image, then class.
    """
    images, pixels = labels.shape
    known = (labels >= 0) & (labels < num_classes)
    image = torch.arange(images, device=labels.device)[:, None]
    group = torch.where(known, image * num_classes + labels, images * num_classes).flatten()
    shuffled = torch.randperm(images * pixels, device=labels.device)
    order = shuffled[group[shuffled].argsort(stable=True)]
    group = group[order]
    rank, _ = _rank_and_counts(group, groups=images * num_classes + 1)
    return order[(rank < each) & (group < images * num_classes)]


def _rank_and_counts(ids: Tensor, *, groups: int) -> tuple[Tensor, Tensor]:
    """Of sorted group ids (n,): how many earlier ones are of the same group (n,), and the sizes of groups (groups,)."""
    edges = torch.searchsorted(ids, torch.arange(groups + 1, device=ids.device))
    return torch.arange(len(ids), device=ids.device) - edges[ids], edges.diff()
