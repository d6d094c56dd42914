"""A histogram of constant size over values whose range is not known in advance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BINS = 2048
CHUNK = 1 << 18  # values counted at once, so that temporary arrays fit into the processor's cache

Floats = npt.NDArray[np.floating]


class Histogram:
    """Counts of values in 2048 equal bins. If a value is outside the range, the range doubles: neighbouring bins merge.

    The bin width is a power of two, so the final bins do not depend on the order in which values are added.

    Attributes:
        low: left edge of the first bin.
        width: width of one bin.
        minimum, maximum: exact extremes of the values.
        zeros: how many values are exactly 0 (they count in bin ``BINS // 2``). ReLU produces many zeros, and
            quantisation does not change them.
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
        """Everything but the counts: low, width, minimum, maximum, zeros."""
        return np.array([self.low, self.width, self.minimum, self.maximum, self.zeros])

    @classmethod
    def restored(cls, counts: npt.NDArray[np.int64], edges: npt.NDArray[np.float64]) -> Histogram:
        """The histogram with these counts and edges."""
        histogram = cls()
        histogram.counts = counts.copy()
        histogram.low, histogram.width, histogram.minimum, histogram.maximum, zeros = (float(edge) for edge in edges)
        histogram.zeros = int(zeros)
        return histogram

    def _cover(self, low: float, high: float) -> None:
        while low < self.low or high > self.low + BINS * self.width:  # the range is centred on 0: both sides double
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[:] = 0
            self.counts[BINS // 4 : BINS // 4 + BINS // 2] = merged
            self.width *= 2
            self.low *= 2

    @property
    def centres(self) -> Floats:
        return self.low + (np.arange(BINS) + 0.5) * self.width

    def quantile(self, share: float) -> float:
        """The value below which a share (0..1) of all values is; linear inside a bin, never outside the extremes."""
        cumulative = np.cumsum(self.counts)
        target = share * cumulative[-1]
        index = int(np.searchsorted(cumulative, target))
        count_below = cumulative[index - 1] if index else 0
        position = (target - count_below) / max(1, self.counts[index])  # inside the bin, 0..1
        return float(np.clip(self.low + (index + position) * self.width, self.minimum, self.maximum))
