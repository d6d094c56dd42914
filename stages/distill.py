"""Prepared data set and teacher -> one student, by the losses in its recipe."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import artifact, models, params, recipes
from pipeline.errors import command
from pipeline.prepared import Prepared
from pipeline.training import network_artifact, processes
from pipeline.training.distillation import DistillationTask
from pipeline.training.run import train
from pipeline.training.seeding import seed_everything


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--student", required=True, help="key of students in params.yaml")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--loss", type=Path, required=True, help="JSON of the stage sources, with the losses")
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--costs", type=Path, required=True, help="JSON: seconds and memory of the training")
    parser.add_argument(
        "--checkpoints", type=Path, required=True, help="folder; an interrupted training resumes from it"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    settings = params.load(args.params, kinds=("models",))
    chosen = recipes.read(args.loss)
    prepared = Prepared(args.dataset)
    labels, recipe, entry = prepared.labels, settings.distill, settings.student(args.student)
    teacher, teacher_artifact = network_artifact.load(args.teacher)
    processes.start_asked_for()
    seed_everything(settings.distill_seed)
    student = models.build(entry.model.name, entry.model.options, num_classes=labels.num_classes, classes=labels.names)
    loop = recipe.loop(images=len(prepared.splits["train"]))
    task = DistillationTask.on(
        prepared,
        student,
        teacher,
        chosen["options"],
        steps=loop["steps"] * loop["accumulate"],
        class_balance=recipe.class_balance,
    )
    trained = train(
        task,
        prepared=prepared,
        input_size=settings.input_size,
        seed=settings.distill_seed,
        curves=args.curves,
        title=args.student,
        checkpoints=args.checkpoints,
        checkpoint_seconds=settings.checkpoint_seconds,
        inputs={
            "model": {"name": entry.model.name, **entry.model.options},
            "initial_weights": student.initial_weights,
            "class_balance": recipe.class_balance,
            "loss": chosen,
            "teacher": teacher_artifact.hash,
        },
        **loop,
    )
    processes.leave()
    if not processes.is_main():
        return
    network_artifact.save(
        args.out,
        student,
        name=entry.model.name,
        options=entry.model.options,
        labels=labels,
        input_size=settings.input_size,
        facts={
            **trained.facts,
            "student": args.student,
            "loss": {"name": chosen["name"], "options": chosen["options"]},
            "parents": {"dataset": prepared.artifact.hash, "teacher": teacher_artifact.hash},
        },
    )
    behind = sum(p.numel() for p in task.loss.parameters() if p.requires_grad)
    artifact.write_text(args.costs, artifact.dump_json({**trained.costs.to_meta(), "parameters_of_loss": behind}))
    trained.finish()
    best, reached = trained.facts["best_step"], trained.facts["metrics"]["val"]["miou"]
    print(f"{args.out}: val mIoU {reached:.2f} (best of step {best})")


if __name__ == "__main__":
    sys.exit(main())
