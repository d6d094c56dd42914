"""Measures the variants of a student, in the same order for every check: score, time, compare, assemble."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import runtimes
from pipeline.artifact import Artifact
from pipeline.evaluation import assembly, environment, exactness, latency
from pipeline.evaluation.scoring import Score, evaluate
from pipeline.frames import Array
from pipeline.prepared import Prepared
from pipeline.runtimes import Engine

#: Label maps (H, W) by variant and name of the frame.
Predictions = dict[str, dict[str, Array]]


@dataclass(frozen=True)
class Variant:
    """An open network, ready to be measured.

    Attributes:
        facts: ``size_bytes``, ``sha256`` and ``runtime``.
    """

    engine: Engine
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Timing:
    """Duration of the timing and limits of instability: values of section ``check`` of params.yaml.

    Attributes:
        warmup, runs, seconds: see ``latency.measure``.
        unstable_cov, unstable_drift: limits of ``latency.unstable``.
    """

    warmup: int
    runs: int
    seconds: float
    unstable_cov: float
    unstable_drift: float

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Timing:
        """From a section, which may have further keys."""
        return cls(**{field.name: section[field.name] for field in fields(cls)})


def open_engines(places: Mapping[str, Path]) -> tuple[dict[str, Variant], Artifact]:
    """Engines as variants, and the artifact of the INT8 engine.

    Args:
        places: folder of each engine artifact by precision; ``int8`` is one of them.

    Raises:
        UserError: see ``runtimes.open_engine``.
    """
    variants: dict[str, Variant] = {}
    artifacts: dict[str, Artifact] = {}
    for precision, place in places.items():
        engine, artifacts[precision] = runtimes.open_engine(place)
        variants[precision] = Variant(engine, assembly.describe_engine(artifacts[precision]))
    return variants, artifacts["int8"]


def measure(
    variants: Mapping[str, Variant],
    *,
    engine: Artifact,
    int8: Artifact | None,
    prepared: Prepared,
    dataset_sha256: str,
    split: str,
    about: Mapping[str, Any],
    device: Mapping[str, Any],
    teacher: Mapping[str, Any] | None,
    budgets: Mapping[str, float | None],
    timing: Timing,
    keep: Collection[str] = (),
    progress: Callable[[str, int], object] = lambda title, total: None,
    say: Callable[[str], object] = lambda text: None,
) -> tuple[dict[str, Any], Predictions]:
    """Measure the variants of a student on the same frames and compare them with budgets.

    Args:
        variants: by name: ``fp32``, ``int8`` and any others; ``torch`` is the float reference, else ``fp32``.
        engine: artifact of the INT8 engine.
        int8: artifact from which it was built, for the comparison with exact arithmetic; None: no comparison.
        prepared, split: the frames.
        dataset_sha256, about, device, teacher, budgets: see ``assembly.assemble``.
        keep: names of frames whose predictions are returned.
        progress: called with (title, total) after every frame.
        say: called with a line for each result.

    Returns:
        the content of ``results/<student>.json`` (IoU in percent, latency in ms), and the predictions.

    Raises:
        UserError: a frame cannot be read, the frames label no class of the network, or the INT8 engine was built from
            another artifact.
    """
    frames = prepared.split(split)
    scores: dict[str, Score] = {}
    for name, variant in variants.items():
        advance = partial(progress, f"{about['student']} {name}", len(frames))
        scores[name] = evaluate(variant.engine, frames, labels=prepared.labels, keep=keep, progress=advance)
        assembly.require_labels(prepared, split, scores[name])
        say(f"{name}: mIoU {scores[name].summary['miou']:.2f}")
    engines = {name: variant.engine for name, variant in variants.items()}
    images = latency.frames_of(frames, engines["int8"].input_size)
    before = environment.conditions()
    latencies = _latencies(engines, images, timing)
    after = environment.conditions()
    for name, summary in latencies.items():
        say(f"{name}: p50 {summary['p50']} ms, p99 {summary['p99']} ms")
    runtime = runtimes.build(engine.meta["runtime"], engine.meta["runtime_options"])
    results = assembly.assemble(
        {name: {**variant.facts, "latency_ms": latencies[name]} for name, variant in variants.items()},
        scores=scores,
        about=about,
        prepared=prepared,
        dataset_sha256=dataset_sha256,
        split=split,
        device=device,
        engine=engine,
        teacher=teacher,
        budgets=budgets,
        conditions=[before, after],
        unstable_cov=timing.unstable_cov,
        unstable_drift=timing.unstable_drift,
        slow_int8=runtime.slow_int8,
    )
    exactness.compare(results, runtime, int8, engine=engine, opened=engines["int8"], frames=images)
    return results, {name: score.kept for name, score in scores.items()}


def _latencies(engines: Mapping[str, Engine], images: Sequence[Array], timing: Timing) -> dict[str, dict[str, Any]]:
    """Engines interleaved; torch on its own, because its thread pool keeps the cores busy after a run."""
    alone = {name: engine for name, engine in engines.items() if name == assembly.TORCH}
    others = {name: engine for name, engine in engines.items() if name != assembly.TORCH}
    runs = max(10, timing.runs // 3)
    return {
        **latency.measure(others, images, warmup=timing.warmup, runs=timing.runs, seconds=timing.seconds),
        **(latency.measure(alone, images, warmup=timing.warmup, runs=runs) if alone else {}),
    }
