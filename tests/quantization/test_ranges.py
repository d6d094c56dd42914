"""The choice of a range, against numpy and against squared errors summed value by value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import HistogramCollector

from pipeline.quantization.histogram import BINS, Histogram
from pipeline.quantization.ranges import _divergence, choose

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
    """The error of clipping and of rounding to 256 levels between low and high, one of which is 0."""
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


def test_mse_considers_unused_symmetric_levels_after_a_relu() -> None:
    """After a ReLU, 127 of 254 symmetric levels are used: they are coarser, so clipping more of the tail is better."""
    values = SAMPLES["relu"].astype(np.float64)
    histogram = histogram_of(values)

    def error(high: float) -> float:
        levels = np.clip(np.rint(values * 127 / high), -127, 127)
        return float(((levels * high / 127 - values) ** 2).sum())

    (low, high), (_, asymmetric) = (
        choose(histogram, method="mse", percentile=0, symmetric=symmetric) for symmetric in (True, False)
    )
    assert low == 0 and high < asymmetric
    best = min(error(f * values.max()) for f in np.linspace(0.3, 1.0, 71))
    assert error(high) <= 1.03 * best < 0.99 * error(asymmetric)


def plain_divergence(counts: list[float], start: int, end: int) -> float:
    """KL between bins start..end and their 128 levels, bin by bin."""
    reference = [counts[i] for i in range(start, end)]
    reference[0] += sum(counts[:start])
    reference[-1] += sum(counts[end:])
    quantised = [0.0] * len(reference)
    for level in range(128):
        members = [i for i in range(len(reference)) if i * 128 // len(reference) == level]
        filled = [i for i in members if reference[i] > 0]
        for i in filled:
            quantised[i] = max(1e-4, sum(counts[start + j] for j in filled) / len(filled))
    total_p, total_q, divergence = sum(reference), sum(quantised), 0.0
    for p, q in zip(reference, quantised, strict=True):
        if p > 0:
            divergence += p / total_p * math.log((p / total_p) / (q / total_q))
    return divergence


@pytest.mark.parametrize(("start", "end"), [(0, 2048), (700, 1400), (1024, 1500), (960, 1088)])
@pytest.mark.parametrize("name", ["normal", "relu", "sparse tail", "outlier"])
def test_divergence_is_that_of_plain_loops(name: str, start: int, end: int) -> None:
    counts = histogram_of(SAMPLES[name]).counts.astype(np.float64)
    assert _divergence(counts, start, end) == pytest.approx(plain_divergence(counts.tolist(), start, end), rel=1e-9)


@pytest.mark.parametrize("name", ["normal", "laplace", "outlier"])
def test_entropy_is_near_onnx_runtimes(name: str) -> None:
    """ONNX Runtime's search puts other bins into the last level, so its threshold differs by a few bins."""
    histogram = histogram_of(SAMPLES[name])
    edges = histogram.low + np.arange(BINS + 1) * histogram.width
    collector = HistogramCollector("entropy", True, BINS, 128, 99.9, "same")
    extremes = (np.array(histogram.minimum), np.array(histogram.maximum))
    theirs = collector.get_entropy_threshold((histogram.counts, edges, *extremes), 128)
    low, high = choose(histogram, method="entropy", percentile=0)
    assert high == pytest.approx(float(theirs[1]), rel=0.12)
    assert low == pytest.approx(float(theirs[0]), rel=0.12)


def test_entropy_cuts_an_outlier_and_keeps_a_bounded_range() -> None:
    low, high = choose(histogram_of(SAMPLES["outlier"]), method="entropy", percentile=0)
    assert 2 < high < 20 and -20 < low < -2  # of normal values and one at 60
    low, high = choose(histogram_of(SAMPLES["relu6"]), method="entropy", percentile=0)
    assert low == 0 and high == 6


@pytest.mark.parametrize("name", SAMPLES)
def test_entropy_holds_zero_and_stays_within_the_extremes(name: str) -> None:
    values = SAMPLES[name].astype(np.float32)
    low, high = choose(histogram_of(values), method="entropy", percentile=0)
    assert min(0.0, float(values.min())) <= low <= 0 <= high <= max(0.0, float(values.max()))
    assert high > low


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_a_tensor_of_zeros_has_no_range(method: str) -> None:
    assert choose(histogram_of(np.zeros(100)), method=method, percentile=99) == (0.0, 0.0)
