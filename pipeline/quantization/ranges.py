"""From histograms to the range that 8 bits shall cover: minmax, percentile, entropy or least squared error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pipeline.quantization.histogram import BINS, Histogram

LEVELS = 255
#: Fractions of the full range that the mse search tries.
FRACTIONS = np.linspace(0.3, 1.0, 71)
#: Levels that the entropy search compares with, and its step in bins: 128 as TensorRT's calibrator has it.
ENTROPY_LEVELS, ENTROPY_STEP = 128, 4
#: Count of a bin that holds outliers alone in the quantised distribution, where 0 would make the divergence infinite.
SMOOTHED = 1e-4

Ranges = dict[str, tuple[float, float]]
Counts = npt.NDArray[np.floating]


def choose_all(
    histograms: Mapping[str, Histogram], *, method: str, percentile: float, symmetric: bool = False
) -> Ranges:
    """Range of each tensor, see :func:`choose`, rounded to 9 digits so that the file is stable."""
    found = {}
    for name, histogram in histograms.items():
        low, high = choose(histogram, method=method, percentile=percentile, symmetric=symmetric)
        found[name] = (float(f"{low:.9g}"), float(f"{high:.9g}"))
    return found


def choose(histogram: Histogram, *, method: str, percentile: float, symmetric: bool = False) -> tuple[float, float]:
    """Range (low, high) of one tensor; it always holds 0, which padding and ReLU need exactly.

    Args:
        method: ``minmax`` (everything), ``percentile`` (cuts both tails), ``entropy`` (least information lost, as
            TensorRT's calibrator), ``mse`` (least squared quantisation error).
        percentile: share kept at each end, in percent; only for ``percentile``.
        symmetric: the levels will lie symmetrically about 0, whatever the range: after a ReLU half of them are lost,
            which ``mse`` weighs.
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
    """The range, a fraction of the full one at each end, whose rounding and clipping errors are least together."""
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
    """The range -t..t, cut to the extremes, whose quantised distribution is nearest to that of the values.

    For each t: the reference P holds the counts within, and what lies outside in its outermost bins; Q is the counts
    within, summed into 128 levels and spread evenly over the bins of a level that are not empty. The t with the least
    KL(P || Q) wins (Migacz, 8-bit Inference with TensorRT, GTC 2017). Exact zeros count in neither: every range has
    them.
    """
    middle = BINS // 2
    counts = histogram.counts.astype(np.float64)
    counts[middle] -= histogram.zeros
    used = np.flatnonzero(counts)
    if not len(used):
        return histogram.minimum, histogram.maximum
    first, last = min(int(used[0]), middle), max(int(used[-1]), middle - 1) + 1  # of the bins, zero included
    reach = max(middle - first, last - middle)
    best, best_divergence = reach, np.inf
    for bins in range(reach, ENTROPY_LEVELS // 2 - 1, -ENTROPY_STEP):
        start, end = max(first, middle - bins), min(last, middle + bins)
        if end - start < ENTROPY_LEVELS:
            break  # fewer bins than levels: nothing would be lost
        divergence = _divergence(counts, start, end)
        if divergence < best_divergence:
            best, best_divergence = bins, divergence
    reach_value = best * histogram.width
    return max(histogram.minimum, -reach_value), min(histogram.maximum, reach_value)


def _divergence(counts: Counts, start: int, end: int) -> float:
    """KL of bins start..end, outliers at its ends, from the same in 128 levels; over the bins that are not empty."""
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
