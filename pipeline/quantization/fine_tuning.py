"""Quantisation-aware training from end to end: a student is fine-tuned with 8 bits simulated and the same losses."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.export.onnx_file import AWARE
from pipeline.models.weights import network_artifact
from pipeline.prepared import Prepared
from pipeline.quantization.aware import simulate
from pipeline.quantization.calibration_frames import Frames
from pipeline.quantization.quantize import Settings
from pipeline.settings.params import Params
from pipeline.training import processes, teachers
from pipeline.training.distillation import DistillationTask
from pipeline.training.run import Trained, train
from pipeline.training.seeding import seed_everything
from pipeline.training.settings import TrainingSettings

#: Options of ``quantize`` that the simulated roundings depend on.
RANGES = ("method", "percentile", "float_head", "float_layers")


def fine_tune(
    params: Params, *, name: str, student: Path, teacher: Path, loss: Mapping[str, Any], dataset: Path,
    checkpoints: Path, out: Path,
) -> Trained:  # fmt: skip
    """Fine-tune a student and write it as a network artifact.

    Args:
        params: sections ``qat``, ``distill``, ``calibrate`` and ``quantize`` are used.
        name: of the student; its option ``export`` says which of its weights are the start.
        student, teacher: network artifacts.
        loss: of the student, see ``settings.loss_mixture``.
        dataset: prepared data set.
        checkpoints: folder; an interrupted training resumes from it.
        out: the network artifact to write; of several processes, the first one writes it.

    Raises:
        UserError: see ``calibration_frames.Frames.for_calibration`` and ``training.run.train``.
    """
    aware, recipe, weights = params.qat, params.distill, params.student(name).export
    network, student_artifact = network_artifact.load(student, weights=weights)
    prepared, teaching = Prepared(dataset), recipe.teaching.model_dump(exclude={"cached"})
    teacher_network, opened = teachers.open_all(teacher, labels=prepared.labels, **teaching)
    hashes = {name: stored.hash for name, stored in opened.items()}
    processes.start_asked_for()
    frames = Frames.for_calibration(
        prepared, params.input_size, count=params.calibrate.images, seed=params.seed,
        allow_missing=params.calibrate.allow_missing_classes,
    )  # fmt: skip
    ranges = params.quantize.model_dump(include=set(RANGES))
    seed_everything(params.distill_seed)
    simulated = simulate(
        network, frames, input_size=params.input_size, target=aware.target, settings=Settings(**ranges)
    )
    distilling = TrainingSettings.of(
        recipe, images=len(prepared.splits["train"]), input_size=params.input_size, seed=params.distill_seed
    )
    settings = replace(distilling, keep_start=True, **aware.model_dump(exclude={"target"}))
    task = DistillationTask.on(
        prepared, simulated, teacher_network, loss["options"], steps=settings.forward_passes, seed=settings.seed
    )
    inputs = {
        "student": student_artifact.hash, "weights": weights, **hashes, "teaching": teaching, "loss": loss,
        "target": aware.target, "ranges": ranges, "frames": frames.names,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as curves:
        trained = train(
            task, settings, prepared=prepared, inputs=inputs, title=f"{name}, 8 bits simulated", curves=Path(curves),
            checkpoints=checkpoints, checkpoint_seconds=params.checkpoint_seconds,
            workers=recipe.workers, store=recipe.store, log_every=recipe.log_every,
        )  # fmt: skip
    processes.leave()
    if processes.is_main():
        replaced = ("best_step", "metrics", "last")
        facts = {key: value for key, value in student_artifact.facts.items() if key not in replaced}
        parents = {**student_artifact.meta["parents"], "student": student_artifact.hash, **hashes}
        training = {**ranges, **aware.model_dump(), **trained.facts, "loss": loss["name"]}
        meta = {**facts, "weights": weights, AWARE: training, "parents": parents}
        network_artifact.write(out, network, meta=meta)
        trained.finish()
    return trained
