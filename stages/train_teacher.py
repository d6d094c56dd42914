"""Prepared data set -> teacher network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import models, params
from pipeline.errors import command
from pipeline.prepared import Prepared
from pipeline.training import network_artifact, processes
from pipeline.training.data import class_weights
from pipeline.training.run import train
from pipeline.training.seeding import seed_everything
from pipeline.training.tasks import SupervisedTask


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, required=True, help="what an interrupted training goes on from")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    processes.start_asked_for()

    settings = params.load(args.params, kinds=("models",))
    prepared = Prepared(args.dataset)
    labels, model, recipe = prepared.labels, settings.teacher.model, settings.teacher.train
    seed_everything(settings.seed)
    network = models.build(model.name, model.options, num_classes=labels.num_classes)
    split = prepared.split("train")
    weights = class_weights(split, labels, balance=recipe.class_balance)
    task = SupervisedTask(network, ignore_index=labels.ignore_index, class_weights=weights)
    trained = train(
        task,
        prepared=prepared,
        input_size=settings.input_size,
        seed=settings.seed,
        curves=args.curves,
        title="teacher",
        checkpoints=args.checkpoints,
        checkpoint_seconds=settings.checkpoint_seconds,
        inputs={"model": {"name": model.name, **model.options}, "class_balance": recipe.class_balance},
        **recipe.loop(images=len(split)),
    )
    if not processes.is_main():
        return
    network_artifact.save(
        args.out,
        network,
        name=model.name,
        options=model.options,
        labels=labels,
        input_size=settings.input_size,
        facts={**trained.facts, "parents": {"dataset": prepared.artifact.hash}},
    )
    trained.finish()
    best, reached = trained.facts["best_step"], trained.facts["metrics"]["val"]["miou"]
    print(f"{args.out}: val mIoU {reached:.2f} (best of step {best})")


if __name__ == "__main__":
    sys.exit(main())
