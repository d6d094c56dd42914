"""Memory that is used again: fresh memory costs a page fault each 4 KiB, half a millisecond a frame at 1280x720."""

from __future__ import annotations

import sys

import numpy as np

from pipeline.frames import Array

_probe = [np.empty(0)]
_UNUSED = sys.getrefcount(_probe[0])  # of what only a list refers to, counted as below


class Buffers:
    """Arrays of a few shapes, each given again as soon as nobody refers to it, or to a view of it, any more.

    Which one is free shows in its reference count, so there is nothing to hand back, and what is kept by somebody is
    never written into. Whoever asks does so from one thread at a time; others may let go of theirs meanwhile.
    """

    def __init__(self) -> None:
        self._arrays: dict[tuple[int, ...], list[Array]] = {}

    def get(self, shape: tuple[int, ...]) -> Array:
        """An array of ``shape``, uint8, with anything in it."""
        arrays = self._arrays.setdefault(shape, [])
        for number in range(len(arrays)):
            if sys.getrefcount(arrays[number]) == _UNUSED:
                return arrays[number]
        arrays.append(np.empty(shape, np.uint8))
        return arrays[-1]

    def clear(self) -> None:
        """Forget them all, because other shapes are wanted now."""
        self._arrays.clear()
