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
from pipeline.evaluation import budgets as limits
from pipeline.evaluation import environment, latency
from pipeline.evaluation.accuracy import evaluate
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
    teacher: Artifact,
    student: Path,
    engines: Path,
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
        teacher: network artifact; its recorded metrics on ``split`` are used.
        student: network artifact folder, the float reference ``torch``.
        engines: folder with the engine artifacts fp32, fp16 and int8.
        device: what ``evaluation.device.describe`` says of this machine.
        split, warmup, runs, seconds, unstable_cov, unstable_drift, samples: section ``check`` of params.yaml.
        progress: called with (title, total) after every frame.

    Returns:
        the contents of ``results/<student>.json`` (IoU in percent, latency in ms), and label maps by variant and frame
        name.
    """
    network, found = network_artifact.load(student)
    frames = prepared.split(split)
    if split not in teacher.meta["metrics"]:
        raise UserError(
            f"check.split: the teacher was not measured on '{split}'; choose one of {sorted(teacher.meta['metrics'])}"
        )
    keep = spread(frames, samples)
    variants: dict[str, dict[str, Any]] = {}
    opened: dict[str, Engine] = {}
    predictions: Predictions = {}
    for precision in ("fp32", "fp16", "int8"):
        engine, facts = runtimes.open_engine(engines / precision)
        opened[precision] = engine
        file = facts.path / next(iter(facts.meta["files"]))
        name = facts.meta["runtime"]
        variants[precision] = _facts(file, runtime=f"{name} {facts.meta['fingerprint'].get(name, '')}".strip())
    stride = opened["int8"].input_size[0] // opened["int8"].output_size[0]
    reference = TorchEngine(network, input_size=opened["int8"].input_size, label_stride=stride)
    by_torch = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    variants = {"torch": _facts(found.file(network_artifact.WEIGHTS), runtime=by_torch), **variants}
    opened = {"torch": reference, **opened}
    for name, engine in opened.items():
        advance = partial(progress, f"{student.name} {name}", len(frames))
        measured, predictions[name] = evaluate(engine, frames, labels=prepared.labels, keep=keep, progress=advance)
        variants[name].update(measured)
    conditions = [environment.conditions()]
    timings = _latencies(opened, frames, warmup=warmup, runs=runs, seconds=seconds)
    for name, timing in timings.items():
        variants[name]["latency_ms"] = timing
    conditions.append(environment.conditions())
    wavering = latency.unstable(timings, cov=unstable_cov, drift=unstable_drift)
    measured_teacher = teacher.meta["metrics"][split]
    lost = limits.drop(variants, measured_teacher, prepared.labels.names)
    broken = limits.violations(budgets, lost, variants["int8"])
    present = variants["torch"]["per_class_iou"]
    results = {
        "student": student.name,
        "loss": found.meta["loss"]["name"],
        "dataset": prepared.name,
        "split": split,
        "images": len(frames),
        "classes": list(prepared.labels.names),
        "absent_classes": [n for n, iou in zip(prepared.labels.names, present, strict=True) if iou is None],
        "model": describe_model(found),
        "parameters": found.meta["parameters"],
        "input_size": found.meta["input_size"],
        "device": dict(device),
        "runtime_options": facts.meta["runtime_options"],
        "dataset_sha256": prepared.artifact.hash,
        "teacher": {
            "miou": measured_teacher["miou"],
            "per_class_iou": measured_teacher["per_class_iou"],
            "parameters": teacher.meta["parameters"],
            "sha256": teacher.hash,
            "model": describe_model(teacher),
        },
        "variants": variants,
        "drop": lost,
        "speedup_int8_vs_fp32": _ratio(variants),
        "quantization": describe_quantization(facts),
        "conditions": conditions,
        "unstable": [name for name in variants if name in wavering],
        "passed": not broken,
        "violations": broken,
    }
    return results, predictions


def _facts(file: Path, *, runtime: str) -> dict[str, Any]:
    return {"size_bytes": file.stat().st_size, "sha256": artifact.sha256(file), "runtime": runtime}


def _latencies(
    opened: Mapping[str, Engine], frames: Split, *, warmup: int, runs: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Engines interleaved; torch on its own, because its thread pool keeps the cores busy after a run."""
    size = opened["int8"].input_size
    images = latency.frames_of(frames, size)
    alone = {"torch": opened["torch"]}
    others = {name: engine for name, engine in opened.items() if name != "torch"}
    return {
        **latency.measure(others, images, warmup=warmup, runs=runs, seconds=seconds),
        **latency.measure(alone, images, warmup=warmup, runs=max(10, runs // 3)),
    }


def _ratio(variants: Mapping[str, Any]) -> float:
    return round(float(variants["fp32"]["latency_ms"]["p50"]) / float(variants["int8"]["latency_ms"]["p50"]), 3)


def describe_quantization(engine: Artifact) -> dict[str, Any]:
    """How the INT8 engine's file was made, and which of its layers hurt; empty for a file that is not ours."""
    meta = engine.meta
    if "calibration" not in meta:
        return {}
    found = meta.get("fallback", {}).get(meta["source"], {})
    return {
        **meta["calibration"],
        "in_float": found.get("float_layers", []),
        "budget_held": found.get("held"),
        "sensitivity": meta.get("sensitivity", []),
    }


def describe_model(found: Artifact) -> str:
    """A network in a few words: its plugin, and the text options that were given."""
    model = found.meta["model"]
    return " ".join([model["name"], *(str(value) for value in model["options"].values() if isinstance(value, str))])


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
