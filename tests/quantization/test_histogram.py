"""The streaming histogram against numpy on all values at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.quantization.histogram import BINS, Histogram


def chunks(seed: int = 0) -> list[Any]:
    """Arrays of growing and shrinking range, different shapes."""
    rng = np.random.default_rng(seed)
    scales = (0.01, 3.0, 0.5, 700.0, 40.0)
    return [(s * rng.standard_normal((4, 50, 60)) + s / 3).astype(np.float32) for s in scales]


def filled(arrays: list[Any]) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.add(array)
    return histogram


def test_counts_are_numpys_under_growing_ranges() -> None:
    histogram = filled(chunks())
    values = np.concatenate([chunk.ravel() for chunk in chunks()]).astype(np.float64)
    edges = histogram.low + np.arange(BINS + 1) * histogram.width
    expected, _ = np.histogram(values, bins=edges)
    assert np.array_equal(histogram.counts, expected)
    assert histogram.counts.sum() == values.size
    assert (histogram.minimum, histogram.maximum) == (values.min(), values.max())
    assert edges[0] <= values.min()
    assert values.max() <= edges[-1]
    assert edges[-1] < 4 * np.abs(values).max()  # half of the bins are in use at least
    np.testing.assert_allclose(histogram.centres, (edges[:-1] + edges[1:]) / 2)


def test_order_does_not_matter() -> None:
    forward, backward = filled(chunks()), filled(chunks()[::-1])
    assert np.array_equal(forward.counts, backward.counts)
    assert (forward.low, forward.width) == (backward.low, backward.width)
    assert (forward.minimum, forward.maximum, forward.zeros) == (backward.minimum, backward.maximum, backward.zeros)


def test_memory_is_constant() -> None:
    histogram = filled(chunks())
    before = {key: np.asarray(value).nbytes for key, value in vars(histogram).items()}
    for seed in range(1, 20):
        for chunk in chunks(seed):
            histogram.add(chunk)
    assert {key: np.asarray(value).nbytes for key, value in vars(histogram).items()} == before
    assert sum(before.values()) < 8 * BINS + 100


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.77, 0.999, 1.0])
def test_quantile_is_numpys_within_a_bin(share: float) -> None:
    values = np.random.default_rng(2).gamma(2.0, size=100_000).astype(np.float32) - 1
    histogram = filled(list(values.reshape(10, -1)))
    assert histogram.quantile(share) == pytest.approx(float(np.quantile(values, share)), abs=2 * histogram.width)


@pytest.mark.parametrize(
    ("values", "zeros"),
    [
        ([5.0, 5.0, 5.0], 0),
        ([-0.25], 0),
        ([0.0, 0.0], 2),
        ([0.0, -0.0, 1e-30], 2),
        ([3.4e38, -3.4e38, 1.0], 0),
        ([-7.0, -1.0, -0.5], 0),
        ([1.0, 2.0, 4.0, 0.0], 1),
    ],
    ids=["constant", "negative constant", "zeros", "nearly zero", "huge", "negative only", "powers of two"],
)
def test_extreme_tensors(values: list[float], zeros: int) -> None:
    array = np.array(values, np.float32)
    histogram = filled([array, array])
    assert histogram.counts.sum() == 2 * array.size
    assert histogram.zeros == 2 * zeros
    assert (histogram.minimum, histogram.maximum) == (array.min(), array.max())
    assert (histogram.quantile(0.0), histogram.quantile(1.0)) == (array.min(), array.max())
    assert array.min() <= histogram.quantile(0.5) <= array.max()


def test_zeros_stay_in_the_middle_bin_when_the_range_grows() -> None:
    histogram = filled([np.zeros(7, np.float32), np.array([0.3, -100.0, 0.0], np.float32), np.zeros(2, np.float32)])
    assert histogram.zeros == 10
    assert histogram.counts[BINS // 2] >= 10
    assert histogram.low + BINS // 2 * histogram.width == 0.0


def test_float16_values_are_counted() -> None:
    values = np.array([-2.5, 0.5, 60000.0], np.float16)
    assert filled([values]).maximum == float(values.max())
