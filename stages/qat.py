"""A student -> the same one fine-tuned with 8 bits simulated, its losses kept on; without `qat: true` as it is."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from pipeline import artifact, params, recipes
from pipeline.artifact import Artifact
from pipeline.errors import command
from pipeline.export.onnx_file import AWARE
from pipeline.prepared import Prepared
from pipeline.quantization.aware import simulate
from pipeline.quantization.calibration_frames import Frames
from pipeline.quantization.quantize import Settings
from pipeline.training import network_artifact, processes
from pipeline.training.distillation import DistillationTask
from pipeline.training.run import train
from pipeline.training.seeding import seed_everything


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--name", required=True, help="key of students in params.yaml")
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--loss", type=Path, required=True, help="JSON of the stage sources, with the losses")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument(
        "--checkpoints", type=Path, required=True, help="folder; an interrupted training resumes from it"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    settings = params.load(args.params, kinds=())
    if settings.student(args.name).qat:
        fine_tune(settings, args)
    elif processes.is_main():
        hand_on(artifact.load(args.student, kind="network"), args.out)


def hand_on(found: Artifact, out: Path) -> None:
    with artifact.create(out, kind="network", meta=found.facts) as folder:
        for name in found.meta["files"]:
            shutil.copyfile(found.file(name), folder / name)
    print(f"{out}: the student as it is; no qat for it")


def fine_tune(settings: params.Params, args: argparse.Namespace) -> None:
    chosen, recipe = settings.qat, settings.distill
    student, found = network_artifact.load(args.student)
    teacher, teacher_artifact = network_artifact.load(args.teacher)
    losses = recipes.read(args.loss)
    prepared = Prepared(args.dataset)
    processes.start_asked_for()
    frames = Frames.for_calibration(
        prepared,
        settings.input_size,
        count=settings.calibrate.images,
        seed=settings.seed,
        allow_missing=settings.calibrate.allow_missing_classes,
    )
    ranges = settings.quantize.model_dump(include={"method", "percentile", "float_head", "float_layers"})
    seed_everything(settings.distill_seed)
    simulated = simulate(
        student, frames, input_size=settings.input_size, target=chosen.target, settings=Settings(**ranges)
    )
    task = DistillationTask.on(
        prepared,
        simulated,
        teacher,
        losses["options"],
        steps=chosen.steps * recipe.accumulate,
        class_balance=recipe.class_balance,
    )
    with tempfile.TemporaryDirectory() as curves:
        trained = train(
            task,
            prepared=prepared,
            input_size=settings.input_size,
            seed=settings.distill_seed,
            curves=Path(curves),
            title=f"{args.name}, 8 bits simulated",
            keep_start=True,
            checkpoints=args.checkpoints,
            checkpoint_seconds=settings.checkpoint_seconds,
            inputs={
                "student": found.hash,
                "teacher": teacher_artifact.hash,
                "loss": losses,
                "target": chosen.target,
                "ranges": ranges,
                "frames": frames.names,
                "class_balance": recipe.class_balance,
            },
            **{**recipe.loop(images=len(prepared.splits["train"])), **chosen.model_dump(exclude={"target"})},
        )
    processes.leave()
    if not processes.is_main():
        return
    carried = {key: value for key, value in found.facts.items() if key not in ("best_step", "metrics")}
    parents = {**found.meta["parents"], "student": found.hash, "teacher": teacher_artifact.hash}
    told = {**ranges, **chosen.model_dump(), **trained.facts, "loss": losses["name"]}
    network_artifact.write(args.out, student, meta={**carried, AWARE: told, "parents": parents})
    trained.finish()
    best, reached = trained.facts["best_step"], trained.facts["metrics"]["val"]["miou"]
    print(f"{args.out}: val mIoU {reached:.2f} as {chosen.target} INT8, simulated (best of step {best}; 0 is before)")


if __name__ == "__main__":
    sys.exit(main())
