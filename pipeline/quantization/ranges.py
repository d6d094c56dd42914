"""From histograms to the activation ranges that 8 bits cover: minmax, percentile, entropy or least squared error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pipeline.quantization.histogram import BINS, Histogram

LEVELS = 255
#: Fractions of the full range that the mse search tries.
FRACTIONS = np.linspace(0.3, 1.0, 71)
#: Number of levels in the entropy search (128, as in TensorRT's calibrator), and its step in bins.
ENTROPY_LEVELS, ENTROPY_STEP = 128, 4
#: Count, in the quantised distribution, of a bin that holds only outliers; with 0 the divergence would be infinite.
SMOOTHED = 1e-4

Ranges = dict[str, tuple[float, float]]
Counts = npt.NDArray[np.floating]


def choose_all(
    histograms: Mapping[str, Histogram], *, method: str, percentile: float, symmetric: bool = False
) -> Ranges:
    """Range of each tensor, see :func:`choose`, rounded to 9 digits so that the file is reproducible."""
    ranges = {}
    for name, histogram in histograms.items():
        low, high = choose(histogram, method=method, percentile=percentile, symmetric=symmetric)
        ranges[name] = (float(f"{low:.9g}"), float(f"{high:.9g}"))
    return ranges


def choose(histogram: Histogram, *, method: str, percentile: float, symmetric: bool = False) -> tuple[float, float]:
    """Range (low, high) of one tensor. It always contains 0, because padding and ReLU need an exact 0.

    Args:
        method: ``minmax`` (all values), ``percentile`` (clips both tails), ``entropy`` (loses least information, as
            TensorRT's calibrator), ``mse`` (least squared quantisation error).
        percentile: share of the values that is not clipped at each end, in percent; only for ``percentile``.
        symmetric: the levels will be symmetric about 0. After a ReLU the negative half of them is unused, which ``mse``
            takes into account.
    """
    if method == "minmax":
        low, high = histogram.minimum, histogram.maximum
    elif method == "percentile":
        low, high = histogram.quantile(1 - percentile / 100), histogram.quantile(percentile / 100)
    elif method == "entropy":
        low, high = least_divergence(histogram)
    else:
        low, high = least_squares(histogram, symmetric=symmetric)
    return min(0.0, low), max(0.0, high)


def least_squares(histogram: Histogram, *, symmetric: bool = False) -> tuple[float, float]:
    """The fraction of the full range with the smallest sum of squared rounding and clipping errors."""
    low, high = min(0.0, histogram.minimum), max(0.0, histogram.maximum)
    counts = histogram.counts.copy()
    counts[BINS // 2] -= histogram.zeros  # exact in every range
    values, counts = histogram.centres[counts > 0], counts[counts > 0]
    best, best_error = (low, high), np.inf
    for fraction in FRACTIONS[::-1]:
        span = 2 * max(-low, high) if symmetric else high - low
        scale = fraction * span / LEVELS
        clipped = np.clip(values, fraction * low, fraction * high)
        clipping = (values - clipped) ** 2
        rounding = np.where(clipping > 0, 0.0, scale**2 / 12)  # uniform inside a level
        error = float((counts * (clipping + rounding)).sum())
        if error < best_error:
            best, best_error = (fraction * low, fraction * high), error
    return best


def least_divergence(histogram: Histogram) -> tuple[float, float]:
    """The range -t..t whose quantised distribution is nearest to the distribution of the values.

    The range is cut to the extremes of the values. For each t, the reference P is the counts inside the range, with the
    counts outside added to its two outermost bins. Q is the counts inside, summed into 128 levels; each sum is spread
    evenly over the bins of its level that are not empty. The t with the smallest KL(P || Q) is chosen (Migacz, 8-bit
    Inference with TensorRT, GTC 2017). Exact zeros count in neither P nor Q, because every range represents them.
    """
    middle = BINS // 2
    counts = histogram.counts.astype(np.float64)
    counts[middle] -= histogram.zeros
    used = np.flatnonzero(counts)
    if not len(used):
        return histogram.minimum, histogram.maximum
    first, last = min(int(used[0]), middle), max(int(used[-1]), middle - 1) + 1  # of the bins, zero included
    largest = max(middle - first, last - middle)
    best, best_divergence = largest, np.inf
    for bins in range(largest, ENTROPY_LEVELS // 2 - 1, -ENTROPY_STEP):
        start, end = max(first, middle - bins), min(last, middle + bins)
        if end - start < ENTROPY_LEVELS:
            break  # with fewer bins than levels, quantisation loses nothing
        divergence = _divergence(counts, start, end)
        if divergence < best_divergence:
            best, best_divergence = bins, divergence
    threshold = best * histogram.width
    return max(histogram.minimum, -threshold), min(histogram.maximum, threshold)


def _divergence(counts: Counts, start: int, end: int) -> float:
    """KL(P || Q) of :func:`least_divergence` for bins start..end, over the bins that are not empty."""
    inside = counts[start:end]
    reference = inside.copy()
    reference[0] += counts[:start].sum()
    reference[-1] += counts[end:].sum()
    level = np.arange(end - start) * ENTROPY_LEVELS // (end - start)
    filled = reference > 0
    sums = np.bincount(level, weights=inside, minlength=ENTROPY_LEVELS)
    members = np.bincount(level[filled], minlength=ENTROPY_LEVELS)
    quantised = np.where(filled, sums[level] / np.maximum(members[level], 1), 0.0)
    quantised = np.maximum(quantised, SMOOTHED)[filled]
    p, q = reference[filled] / reference.sum(), quantised / quantised.sum()
    return float((p * np.log(p / q)).sum())
