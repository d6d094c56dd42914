"""A histogram of constant size over values whose range is not known in advance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BINS = 2048

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
        bins = np.floor((values.ravel().astype(np.float64) - self.low) / self.width).astype(np.int64)
        self.counts += np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)

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
