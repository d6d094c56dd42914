"""From histograms to the range that 8 bits shall cover: minmax, percentile or least squared error."""

from __future__ import annotations

import numpy as np

from pipeline.quantization.histogram import BINS, Histogram

LEVELS = 255
#: Fractions of the full range that the mse search tries.
FRACTIONS = np.linspace(0.3, 1.0, 71)


def choose(histogram: Histogram, *, method: str, percentile: float) -> tuple[float, float]:
    """Range (low, high) of one tensor; it always holds 0, which padding and ReLU need exactly.

    Args:
        method: ``minmax`` (everything), ``percentile`` (cuts both tails), ``mse`` (least squared quantisation error).
        percentile: share kept at each end, in percent; only for ``percentile``.
    """
    if method == "minmax":
        low, high = histogram.minimum, histogram.maximum
    elif method == "percentile":
        low, high = histogram.quantile(1 - percentile / 100), histogram.quantile(percentile / 100)
    else:
        low, high = least_squares(histogram)
    return min(0.0, low), max(0.0, high)


def least_squares(histogram: Histogram) -> tuple[float, float]:
    """The range, a fraction of the full one at each end, whose rounding and clipping errors are least together."""
    low, high = min(0.0, histogram.minimum), max(0.0, histogram.maximum)
    counts = histogram.counts.copy()
    counts[BINS // 2] -= histogram.zeros  # exact in every range
    values, counts = histogram.centres[counts > 0], counts[counts > 0]
    best, best_error = (low, high), np.inf
    for fraction in FRACTIONS[::-1]:
        scale = fraction * (high - low) / LEVELS
        clipped = np.clip(values, fraction * low, fraction * high)
        clipping = (values - clipped) ** 2
        rounding = np.where(clipping > 0, 0.0, scale**2 / 12)  # uniform inside a level
        error = float((counts * (clipping + rounding)).sum())
        if error < best_error:
            best, best_error = (fraction * low, fraction * high), error
    return best
