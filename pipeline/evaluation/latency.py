"""Latency of engines, host frame in, host label map out. Runs alternate, so other work affects all engines alike."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.frames import Array, resize_frame
from pipeline.prepared import Split
from pipeline.runtimes import Engine

#: Number of frames that the runs use in turn.
FRAMES = 16
#: Standard deviation / mean of the time on the GPU above which trtexec calls the clocks unstable.
DEVICE_COV = 0.025


def measure(
    engines: Mapping[str, Engine], frames: Sequence[Array], *, warmup: int, runs: int, seconds: float = 0.0
) -> dict[str, dict[str, Any]]:
    """Time every engine on real frames, one run of each in turn.

    Args:
        engines: by name; all take frames of the same size.
        frames: (H, W, 3) BGR uint8 of the engines' input size; used in turn.
        warmup: untimed runs of each engine.
        runs: timed runs of each engine, at least.
        seconds: minimum duration per engine; clocks need it to settle.

    Returns:
        :func:`summary` of each engine. Times include copies to and from the device, not resizing the frame. If an
        engine reports its time on the GPU, ``device`` is the summary of that time, without copies.
    """
    batches = [np.ascontiguousarray(frame[np.newaxis]) for frame in frames]
    names = list(engines)
    samples: dict[str, list[float]] = {name: [] for name in names}
    on_device: dict[str, list[float]] = {name: [] for name in names}
    started = time.perf_counter()
    for turn in itertools.count():
        if turn >= warmup + runs and time.perf_counter() - started >= seconds * len(names):
            break
        batch = batches[turn % len(batches)]
        order = names[turn % len(names) :] + names[: turn % len(names)]  # no engine always runs after the same one
        for name in order:
            engine = engines[name]
            start = time.perf_counter()
            engine.run(batch)
            elapsed = time.perf_counter() - start
            if turn >= warmup:
                samples[name].append(1e3 * elapsed)
                if engine.device_ms is not None:
                    on_device[name].append(engine.device_ms)
    summaries = {name: summary(np.asarray(values)) for name, values in samples.items()}
    for name, values in on_device.items():
        if values:
            summaries[name]["device"] = summary(np.asarray(values))
    return summaries


def frames_of(split: Split, size: tuple[int, int]) -> list[Array]:
    """The first frames of a split at the engines' input size: real frames, few enough for the memory."""
    return [resize_frame(split.frame(index), size) for index in range(min(FRAMES, len(split)))]


def unstable(timings: Mapping[str, Mapping[str, Any]], *, cov: float, drift: float) -> list[str]:
    """Names of the timings (see :func:`measure`) that spread or drifted by more than these limits.

    The time on a GPU has its own limit, that of trtexec: only clocks change this time.
    """
    return [
        name
        for name, timing in timings.items()
        if timing["cov"] > cov or timing["drift"] > drift or timing.get("device", {"cov": 0.0})["cov"] > DEVICE_COV
    ]


def summary(samples_ms: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Minimum, p50, p90, p95, p99 in ms (nearest rank, as trtexec), p50_interval, n, cov and drift.

    p50_interval holds the median with 95 % confidence, see :func:`median_interval`; cov is standard deviation / mean;
    drift is the relative increase of the median from the first third of the samples to the last (0.1: 10 %), as of a
    processor that heats up and slows down.

    Example:
        >>> summary(np.arange(1.0, 101.0))["p99"]
        99.0
    """
    ordered = np.sort(samples_ms)
    n = len(ordered)
    rank = {p: ordered[n - 1 - (100 - p) * n // 100] for p in (50, 90, 95, 99)}
    third = max(1, n // 3)
    return {
        "min": round(float(ordered[0]), 3),
        **{f"p{p}": round(float(value), 3) for p, value in rank.items()},
        "p50_interval": [round(float(bound), 3) for bound in median_interval(ordered)],
        "n": n,
        "cov": round(float(ordered.std() / ordered.mean()), 4),
        "drift": round(float(np.median(samples_ms[-third:]) / np.median(samples_ms[:third]) - 1), 3),
    }


def median_interval(ordered: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The sorted samples between which the median lies with 95 % confidence, whatever their distribution.

    The ranks are n / 2 - 0.98 sqrt(n) and 1 + n / 2 + 0.98 sqrt(n) (Campbell and Gardner, BMJ 296, 1988); of a few
    samples the interval is the range. Samples that follow each other are not independent, so that the interval is
    somewhat too narrow.

    Example:
        >>> median_interval(np.arange(1.0, 101.0))
        (40.0, 61.0)
    """
    n = len(ordered)
    reach = 0.98 * math.sqrt(n)
    low, high = math.floor(n / 2 - reach), math.ceil(1 + n / 2 + reach)  # ranks, from 1
    return float(ordered[max(low, 1) - 1]), float(ordered[min(high, n) - 1])
