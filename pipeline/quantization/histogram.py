"""A histogram of constant size over values whose range is not known in advance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BINS = 2048
CHUNK = 1 << 18  # values at a time: temporaries stay in the processor's cache, however large the tensor

Floats = npt.NDArray[np.floating]


class Histogram:
    """Counts of values in 2048 equal bins; when a value falls outside, neighbouring bins are merged and the range
    doubles.

    Bins start at powers of two, so that the result does not depend on the order of the data beyond the first value.

    Attributes:
        low: left edge of the first bin.
        width: of one bin.
        minimum, maximum: exact extremes.
        zeros: how many values are exactly 0 (they lie in bin ``BINS // 2``); ReLU makes many, and none is rounded.
    """

    def __init__(self) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.low = 0.0
        self.width = 0.0
        self.minimum = np.inf
        self.maximum = -np.inf
        self.zeros = 0

    def add(self, values: Floats) -> None:
        """Count an array of any shape. Values must be finite."""
        low, high = float(values.min()), float(values.max())
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self.zeros += values.size - int(np.count_nonzero(values))
        if self.width == 0.0:
            largest = max(abs(low), abs(high), 2.0**-60)
            self.width = 2.0 ** np.ceil(np.log2(largest)) * 2 / BINS
            self.low = -self.width * BINS / 2
        self._cover(low, high)
        flat = values.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            scaled = flat[start : start + CHUNK].astype(np.float32) * np.float32(1 / self.width)  # exact: a power of 2
            bins = np.floor(scaled, out=scaled).astype(np.intp)
            bins += BINS // 2
            self.counts += np.bincount(np.minimum(bins, BINS - 1, out=bins), minlength=BINS)

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """What there is beside the counts: low, width, minimum, maximum, zeros."""
        return np.array([self.low, self.width, self.minimum, self.maximum, self.zeros])

    @classmethod
    def restored(cls, counts: npt.NDArray[np.int64], edges: npt.NDArray[np.float64]) -> Histogram:
        """The histogram that had these counts and edges."""
        found = cls()
        found.counts = counts.copy()
        found.low, found.width, found.minimum, found.maximum, zeros = (float(value) for value in edges)
        found.zeros = int(zeros)
        return found

    def _cover(self, low: float, high: float) -> None:
        while low < self.low or high > self.low + BINS * self.width:  # the range is centred on 0: double both sides
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[:] = 0
            self.counts[BINS // 4 : BINS // 4 + BINS // 2] = merged
            self.width *= 2
            self.low *= 2

    @property
    def centres(self) -> Floats:
        return self.low + (np.arange(BINS) + 0.5) * self.width

    def quantile(self, share: float) -> float:
        """Value below which ``share`` (0..1) of all counts lie, linear inside a bin and never beyond the extremes."""
        cumulative = np.cumsum(self.counts)
        target = share * cumulative[-1]
        index = int(np.searchsorted(cumulative, target))
        before = cumulative[index - 1] if index else 0
        inside = (target - before) / max(1, self.counts[index])
        return float(np.clip(self.low + (index + inside) * self.width, self.minimum, self.maximum))
