"""Prepared data set and teacher -> one student, trained with its losses."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from pipeline import artifact, models
from pipeline.errors import command
from pipeline.models.weights import network_artifact
from pipeline.prepared import Prepared
from pipeline.settings import loss_mixture, params
from pipeline.training import processes, stage0, teachers
from pipeline.training.distillation import DistillationTask
from pipeline.training.run import train
from pipeline.training.seeding import seed_everything
from pipeline.training.settings import TrainingSettings


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
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder; an interrupted run resumes from it")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    settings = params.load(args.params, kinds=("models",))
    loss = loss_mixture.read(args.loss)
    prepared = Prepared(args.dataset)
    labels, recipe, size = prepared.labels, settings.distill, settings.input_size
    model, teaching = settings.student(args.student).model, recipe.teaching.model_dump()
    teacher, opened = teachers.open_all(args.teacher, labels=labels, **teaching)
    hashes = {name: stored.hash for name, stored in opened.items()}
    processes.start_asked_for()
    seed_everything(settings.distill_seed)
    student = models.build(model.name, model.options, num_classes=labels.num_classes, classes=labels.names)
    images = len(prepared.splits["train"])
    training = TrainingSettings.of(recipe, images=images, input_size=size, seed=settings.distill_seed)
    task = DistillationTask.on(prepared, student, teacher, loss["options"], steps=training.forward_passes)
    initial = {"model": {"name": model.name, **model.options}, "initial_weights": student.initial_weights}
    inputs = {**initial, **hashes, "teaching": teaching}
    run = partial(
        train, prepared=prepared, checkpoint_seconds=settings.checkpoint_seconds, workers=recipe.workers,
        store=recipe.store, log_every=recipe.log_every,
    )  # fmt: skip
    places = {"curves": args.curves, "checkpoints": args.checkpoints}
    before = stage0.learn(run, task, training, steps=recipe.stage0, inputs=inputs, title=args.student, **places)
    inputs |= {"loss": loss, "stage0": recipe.stage0}
    trained = run(task, training, inputs=inputs, title=args.student, **places)
    processes.leave()
    if not processes.is_main():
        return
    facts = {
        **trained.facts,
        "student": args.student,
        "loss": {"name": loss["name"], "options": loss["options"]},
        "parents": {"dataset": prepared.artifact.hash, **hashes},
    }
    network_artifact.save(
        args.out, student, name=model.name, options=model.options, labels=labels, input_size=size, facts=facts
    )
    costs = stage0.costs(before, trained) | {"parameters_of_loss": task.parameters_of_loss}
    passes = teachers.passes(teacher) if task.loss.uses_teacher else 0
    artifact.write_text(args.costs, artifact.dump_json(costs | {"teacher_passes": passes}))
    for finished in (*before, trained):
        finished.finish()
    print(f"{args.out}: {trained}")


if __name__ == "__main__":
    sys.exit(main())
