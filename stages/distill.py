"""Prepared data set and teacher -> one student, trained with its losses."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import artifact, models
from pipeline.errors import command
from pipeline.models.weights import network_artifact
from pipeline.prepared import Prepared
from pipeline.settings import loss_mixture, params
from pipeline.training import processes
from pipeline.training.distillation import DistillationTask, warn_of_other_targets
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
    labels, recipe = prepared.labels, settings.distill
    model = settings.student(args.student).model
    teacher, teacher_artifact = network_artifact.load(args.teacher)
    processes.start_asked_for()
    seed_everything(settings.distill_seed)
    student = models.build(model.name, model.options, num_classes=labels.num_classes, classes=labels.names)
    images, size = len(prepared.splits["train"]), settings.input_size
    training = TrainingSettings.of(recipe, images=images, input_size=size, seed=settings.distill_seed)
    task = DistillationTask.on(
        prepared, student, teacher, loss["options"], steps=training.forward_passes, seed=training.seed
    )
    if processes.is_main():
        warn_of_other_targets(task.loss, class_balance=recipe.class_balance, teacher=teacher_artifact.meta)
    inputs = {"model": {"name": model.name, **model.options}, "initial_weights": student.initial_weights}
    trained = train(
        task,
        training,
        prepared=prepared,
        inputs={**inputs, "loss": loss, "teacher": teacher_artifact.hash},
        title=args.student, curves=args.curves, checkpoints=args.checkpoints,
        checkpoint_seconds=settings.checkpoint_seconds, workers=recipe.workers, store=recipe.store,
        log_every=recipe.log_every,
    )  # fmt: skip
    processes.leave()
    if not processes.is_main():
        return
    facts = {
        **trained.facts, "student": args.student, "loss": {"name": loss["name"], "options": loss["options"]},
        "parents": {"dataset": prepared.artifact.hash, "teacher": teacher_artifact.hash},
    }  # fmt: skip
    network_artifact.save(
        args.out, student, name=model.name, options=model.options, labels=labels, input_size=size, facts=facts,
        last=trained.last,
    )  # fmt: skip
    costs = {**trained.costs.to_meta(), "parameters_of_loss": task.parameters_of_loss}
    artifact.write_text(args.costs, artifact.dump_json(costs))
    trained.finish()
    print(f"{args.out}: {trained}")


if __name__ == "__main__":
    sys.exit(main())
