"""How a range is chosen, against numpy and against squared errors counted value by value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.quantization.histogram import Histogram
from pipeline.quantization.ranges import choose

RNG = np.random.default_rng(0)
SAMPLES: dict[str, Any] = {
    "normal": RNG.normal(size=100_000),
    "relu": np.maximum(RNG.normal(size=100_000), 0),
    "sparse relu": np.maximum(RNG.normal(size=100_000) - 2.3, 0),
    "sparse tail": np.maximum(RNG.laplace(size=100_000) - 2, 0),
    "laplace": RNG.laplace(size=100_000),
    "one value": (np.arange(100_001) == 5) * 1.0,
    "uniform": RNG.uniform(-1, 3, 100_000),
    "relu6": np.clip(RNG.normal(3, 3, 100_000), 0, 6),
    "outlier": np.append(RNG.normal(size=100_000), 60.0),
    "constant": np.full(1000, 5.0),
    "negative": -np.abs(RNG.normal(size=10_000)) - 1,
}


def histogram_of(values: Any) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(values.astype(np.float32), 5):
        histogram.add(part)
    return histogram


def squared_error(values: Any, low: float, high: float) -> float:
    """Of rounding to 256 levels between low and high, one of which is 0, with clipping."""
    scale = (high - low) / 255
    zero = round(-low / scale)
    levels = np.clip(np.rint(values / scale) + zero, 0, 255)
    return float((((levels - zero) * scale - values) ** 2).sum())


@pytest.mark.parametrize("name", SAMPLES)
def test_minmax_is_exact_and_holds_zero(name: str) -> None:
    values = SAMPLES[name].astype(np.float32)
    expected = (min(0.0, float(values.min())), max(0.0, float(values.max())))
    assert choose(histogram_of(values), method="minmax", percentile=50) == expected


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
@pytest.mark.parametrize("name", ["normal", "laplace", "uniform", "relu"])
def test_percentile_is_numpys_within_a_bin(name: str, percentile: float) -> None:
    histogram = histogram_of(SAMPLES[name])
    low, high = choose(histogram, method="percentile", percentile=percentile)
    bounds = np.percentile(SAMPLES[name], [100 - percentile, percentile])
    assert low == pytest.approx(min(0.0, bounds[0]), abs=2 * histogram.width)
    assert high == pytest.approx(max(0.0, bounds[1]), abs=2 * histogram.width)


@pytest.mark.parametrize("name", SAMPLES)
def test_mse_is_never_worse_than_minmax(name: str) -> None:
    values = SAMPLES[name].astype(np.float32).astype(np.float64)
    histogram = histogram_of(values)
    widest = squared_error(values, *choose(histogram, method="minmax", percentile=0))
    low, high = choose(histogram, method="mse", percentile=0)
    assert low <= 0 <= high
    assert squared_error(values, low, high) <= 1.001 * widest + 1e-9


@pytest.mark.parametrize("name", ["normal", "laplace", "relu", "outlier"])
def test_mse_is_near_the_best_of_a_brute_force_search(name: str) -> None:
    values = SAMPLES[name].astype(np.float64)
    low, high = min(0.0, values.min()), max(0.0, values.max())
    best = min(squared_error(values, f * low, f * high) for f in np.linspace(0.3, 1.0, 71))
    chosen = squared_error(values, *choose(histogram_of(values), method="mse", percentile=0))
    assert chosen <= 1.03 * best
    assert chosen < 0.97 * squared_error(values, low, high)  # so the search did something


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_a_tensor_of_zeros_has_no_range(method: str) -> None:
    assert choose(histogram_of(np.zeros(100)), method=method, percentile=99) == (0.0, 0.0)
