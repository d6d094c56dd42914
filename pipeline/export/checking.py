"""Check one student on this machine: its variants, its teacher's metrics, and sample label maps for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline import artifact
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.evaluation import assembly
from pipeline.evaluation.matching import require_same_classes
from pipeline.evaluation.measure import Predictions, Timing, Variant, measure, open_engines
from pipeline.export.torch_engine import TorchEngine
from pipeline.frames import write_png
from pipeline.labels import LabelSpec
from pipeline.models.weights import network_artifact
from pipeline.prepared import Prepared, Split
from pipeline.runtimes import Engine


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
    samples: int,
    timing: Timing,
    progress: Callable[[str, int], object],
) -> tuple[dict[str, Any], Predictions]:
    """Measure a student and compare it with its budgets.

    Args:
        teacher: network artifact; its recorded metrics on ``split`` are used. None: there is none.
        student: network artifact folder, the float reference ``torch``, with the weights from which the engines were
            exported. None: a network that was not trained here; its fp32 engine is the reference, and the engines'
            folder names it.
        engines: folder with the engine artifacts fp32, fp16 and int8.
        int8: artifact that the INT8 engine was built from, to compare it with exact arithmetic; None: not compared.
        device: description of this machine by ``evaluation.device.describe``.
        budgets: section ``budgets`` of params.yaml.
        split, samples: of section ``check`` of params.yaml.
        timing: how latency is measured.
        progress: called with (title, total) after every frame.

    Returns:
        the contents of ``results/<student>.json`` (IoU in percent, latency in ms), and label maps by variant and frame
        name.

    Raises:
        UserError: the teacher was not measured on ``split``, or the engines have other classes than the data set.
    """
    names = spread(prepared.split(split), samples)
    if teacher is not None and split not in teacher.meta["metrics"]:
        raise UserError(
            f"check.split: the teacher was not measured on '{split}'; choose one of {sorted(teacher.meta['metrics'])}"
        )
    variants, engine = open_engines({precision: engines / precision for precision in ("fp32", "fp16", "int8")})
    require_same_classes(prepared, engine)
    about = assembly.describe_imported(engine, name=engines.name, prepared=prepared)
    if student is not None:
        weights = engine.meta.get("weights", "best")  # earlier versions exported the best ones
        reference, about = _by_torch(student, variants["int8"].engine, weights=weights, split=split)
        variants = {assembly.TORCH: reference, **variants}
    return measure(
        variants,
        engine=engine,
        int8=int8,
        prepared=prepared,
        dataset_sha256=prepared.artifact.hash,
        split=split,
        about=about,
        device=device,
        teacher=None if teacher is None else _describe_teacher(teacher, split),
        budgets=budgets,
        timing=timing,
        keep=names,
        progress=progress,
    )


def _by_torch(
    student: Path, like: Engine, *, weights: network_artifact.Which, split: str
) -> tuple[Variant, dict[str, Any]]:
    """The student's network as a variant with another engine's sizes, and facts about the student."""
    network, stored = network_artifact.load(student, weights=weights)
    stride = like.input_size[0] // like.output_size[0]
    file = network_artifact.file_of(stored, weights)
    facts = {
        "size_bytes": file.stat().st_size,
        "sha256": artifact.sha256(file),
        "runtime": f"torch {torch.__version__}, {torch.get_num_threads()} threads",
    }
    about = assembly.describe_student(stored, name=student.name, exported=weights, split=split)
    return Variant(TorchEngine(network, input_size=like.input_size, label_stride=stride), facts), about


def _describe_teacher(teacher: Artifact, split: str) -> dict[str, Any]:
    measured = teacher.meta["metrics"][split]
    return {
        "miou": measured["miou"],
        "per_class_iou": measured["per_class_iou"],
        "parameters": teacher.meta["parameters"],
        "sha256": teacher.hash,
        "model": assembly.describe_model(teacher),
    }


def spread(split: Split, count: int) -> list[str]:
    """``count`` names spread evenly over a split."""
    step = max(1, len(split) // max(1, count))
    return [split.names[index] for index in range(step // 2, len(split), step)][:count]


def write_predictions(out: Path, predictions: Predictions, results: Mapping[str, Any], *, labels: LabelSpec) -> None:
    """Write label maps for the report as an artifact of kind ``predictions``."""
    names = sorted(next(iter(predictions.values())))
    hashes = {variant: results["variants"][variant]["sha256"] for variant in predictions}
    facts = {"split": results["split"], "names": names, "variants": sorted(predictions), "sha256": hashes}
    meta = {**labels.to_meta(), **facts}
    with artifact.create(out, kind="predictions", meta=meta) as folder:
        for variant, maps in predictions.items():
            for name, label_map in maps.items():
                write_png(folder / variant / f"{name}.png", label_map)
