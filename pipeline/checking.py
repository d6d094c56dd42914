"""All that is measured on one student: the float network and each engine, on the same frames of the same split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline import artifact, runtimes
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.evaluation import assembly, environment, exactness, latency
from pipeline.evaluation.matching import require_same_classes
from pipeline.evaluation.scoring import Score, evaluate
from pipeline.export.torch_engine import TorchEngine
from pipeline.frames import Array, write_png
from pipeline.labels import LabelSpec
from pipeline.prepared import Prepared, Split
from pipeline.runtimes import Engine
from pipeline.training import network_artifact

Predictions = dict[str, dict[str, Array]]


def check_student(
    *,
    prepared: Prepared,
    teacher: Artifact | None,
    student: Path | None,
    engines: Path,
    int8: Artifact | None,
    device: Mapping[str, Any],
    budgets: Mapping[str, float | None],
    split: str,
    warmup: int,
    runs: int,
    seconds: float,
    unstable_cov: float,
    unstable_drift: float,
    samples: int,
    progress: Callable[[str, int], object],
) -> tuple[dict[str, Any], Predictions]:
    """Measure a student and hold it against its budgets.

    Args:
        teacher: network artifact; its recorded metrics on ``split`` are used. None: there is none.
        student: network artifact folder, the float reference ``torch``. None: a network that was not trained here; its
            fp32 engine is the reference, and the engines' folder names it.
        engines: folder with the engine artifacts fp32, fp16 and int8.
        int8: artifact that the INT8 engine was built from, to compare it with exact arithmetic; None: not compared.
        device: what ``evaluation.device.describe`` says of this machine.
        budgets: section ``budgets`` of params.yaml.
        split, warmup, runs, seconds, unstable_cov, unstable_drift, samples: section ``check`` of params.yaml.
        progress: called with (title, total) after every frame.

    Returns:
        the contents of ``results/<student>.json`` (IoU in percent, latency in ms), and label maps by variant and frame
        name.
    """
    frames = prepared.split(split)
    if teacher is not None and split not in teacher.meta["metrics"]:
        raise UserError(
            f"check.split: the teacher was not measured on '{split}'; choose one of {sorted(teacher.meta['metrics'])}"
        )
    keep = spread(frames, samples)
    variants: dict[str, dict[str, Any]] = {}
    opened: dict[str, Engine] = {}
    scores: dict[str, Score] = {}
    for precision in ("fp32", "fp16", "int8"):
        opened[precision], facts = runtimes.open_engine(engines / precision)
        variants[precision] = assembly.describe_engine(facts)
    require_same_classes(prepared, facts)
    about = assembly.describe_imported(facts, name=engines.name)
    if student is not None:
        reference, variant, about = _by_torch(student, opened["int8"])
        opened, variants = {"torch": reference, **opened}, {"torch": variant, **variants}
    for name, engine in opened.items():
        advance = partial(progress, f"{about['student']} {name}", len(frames))
        scores[name] = evaluate(engine, frames, labels=prepared.labels, keep=keep, progress=advance)
        assembly.require_labels(prepared, split, scores[name])
    conditions = [environment.conditions()]
    for name, timing in _latencies(opened, frames, warmup=warmup, runs=runs, seconds=seconds).items():
        variants[name]["latency_ms"] = timing
    conditions.append(environment.conditions())
    results = assembly.assemble(
        variants,
        scores=scores,
        about=about,
        prepared=prepared,
        dataset_sha256=prepared.artifact.hash,
        split=split,
        device=device,
        engine=facts,
        teacher=_describe_teacher(teacher, split) if teacher is not None else None,
        budgets=budgets,
        conditions=conditions,
        unstable_cov=unstable_cov,
        unstable_drift=unstable_drift,
    )
    runtime = runtimes.build(facts.meta["runtime"], facts.meta["runtime_options"])
    images = latency.frames_of(frames, opened["int8"].input_size)
    exactness.compare(results, runtime, int8, engine=facts, opened=opened["int8"], frames=images)
    return results, {name: found.kept for name, found in scores.items()}


def _by_torch(student: Path, like: Engine) -> tuple[Engine, dict[str, Any], dict[str, Any]]:
    """The student's network as an engine of another's sizes, its variant's facts, and what it is."""
    network, found = network_artifact.load(student)
    stride = like.input_size[0] // like.output_size[0]
    weights = found.file(network_artifact.WEIGHTS)
    variant = {
        "size_bytes": weights.stat().st_size,
        "sha256": artifact.sha256(weights),
        "runtime": f"torch {torch.__version__}, {torch.get_num_threads()} threads",
    }
    about = {
        "student": student.name,
        "loss": found.meta["loss"]["name"],
        "model": assembly.describe_model(found),
        "parameters": found.meta["parameters"],
    }
    return TorchEngine(network, input_size=like.input_size, label_stride=stride), variant, about


def _describe_teacher(teacher: Artifact, split: str) -> dict[str, Any]:
    measured = teacher.meta["metrics"][split]
    return {
        "miou": measured["miou"],
        "per_class_iou": measured["per_class_iou"],
        "parameters": teacher.meta["parameters"],
        "sha256": teacher.hash,
        "model": assembly.describe_model(teacher),
    }


def _latencies(
    opened: Mapping[str, Engine], frames: Split, *, warmup: int, runs: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Engines interleaved; torch on its own, because its thread pool keeps the cores busy after a run."""
    images = latency.frames_of(frames, opened["int8"].input_size)
    alone = {name: engine for name, engine in opened.items() if name == "torch"}
    others = {name: engine for name, engine in opened.items() if name != "torch"}
    return {
        **latency.measure(others, images, warmup=warmup, runs=runs, seconds=seconds),
        **(latency.measure(alone, images, warmup=warmup, runs=max(10, runs // 3)) if alone else {}),
    }


def spread(split: Split, count: int) -> list[str]:
    """``count`` names spread evenly over a split."""
    step = max(1, len(split) // max(1, count))
    return [split.names[index] for index in range(step // 2, len(split), step)][:count]


def write_predictions(out: Path, predictions: Predictions, results: Mapping[str, Any], *, labels: LabelSpec) -> None:
    """Write label maps for the report as an artifact of kind ``predictions``."""
    names = sorted(next(iter(predictions.values())))
    hashes = {variant: results["variants"][variant]["sha256"] for variant in predictions}
    about = {"split": results["split"], "names": names, "variants": sorted(predictions), "sha256": hashes}
    meta = {**labels.to_meta(), **about}
    with artifact.create(out, kind="predictions", meta=meta) as folder:
        for variant, maps in predictions.items():
            for name, label_map in maps.items():
                write_png(folder / variant / f"{name}.png", label_map)
