"""Copies the next batches to the device while it computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

#: The batches of an update: images (n, 3, H, W), targets (n, H, W) and the indices (n,) of their samples.
Group = list[Sequence[Tensor]]


class Prefetch(Iterator[Group]):
    """Groups of batches, on CUDA with images and targets on the device; indices stay on the host.

    On CUDA a group is copied on a stream of its own, so that the copy overlaps with the step before, if the batches are
    in page-locked memory (:func:`pipeline.training.data.batches` puts them there). :meth:`load` fetches the next group
    early. On other devices, groups pass unchanged and nothing is fetched early: there the host computes. The copies
    were not run on a GPU yet.

    Args:
        groups: read to their end.
        memory_format: of the images.
    """

    def __init__(self, groups: Iterator[Group], *, device: torch.device, memory_format: torch.memory_format) -> None:
        self._groups, self._device, self._format = groups, device, memory_format
        self._stream = (
            torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            if device.type == "cuda"
            else None
        )
        self._next: Group | None = None

    def load(self) -> None:
        """Fetch the next group; call it when a step was launched and before the host waits for the device."""
        if self._stream is not None and self._next is None:
            group = next(self._groups, None)
            self._next = None if group is None else self._copied(group)

    def __next__(self) -> Group:
        if self._stream is None:
            return next(self._groups)
        self.load()
        if self._next is None:
            raise StopIteration
        group, self._next = self._next, None
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        for batch in group:
            for tensor in batch[:2]:
                tensor.record_stream(computing)  # its memory is used again only when the step has read it
        return group

    def _copied(self, group: Group) -> Group:
        with torch.cuda.stream(self._stream):
            return [
                (
                    images.to(self._device, non_blocking=True, memory_format=self._format),
                    target.to(self._device, non_blocking=True),
                    *others,
                )
                for images, target, *others in group
            ]
