"""Prepared data set -> teacher network, trained, or with ``teacher.train: false`` evaluated as it came."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import models, params
from pipeline.errors import command
from pipeline.prepared import Prepared
from pipeline.training import network_artifact, processes
from pipeline.training.data import class_weights
from pipeline.training.evaluation import check_complete, measure
from pipeline.training.run import train
from pipeline.training.seeding import seed_everything
from pipeline.training.tasks import SupervisedTask


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument(
        "--checkpoints", type=Path, required=True, help="folder; an interrupted training resumes from it"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    settings = params.load(args.params, kinds=("models",))
    prepared = Prepared(args.dataset)
    labels, model, recipe = prepared.labels, settings.teacher.model, settings.teacher.train
    processes.start_asked_for()
    seed_everything(settings.seed)
    network = models.build(model.name, model.options, num_classes=labels.num_classes, classes=labels.names)
    trained = None
    if recipe is False:
        check_complete(network)
        args.curves.mkdir(parents=True, exist_ok=True)  # empty: an output of the stage all the same
        accelerator = processes.accelerator(precision="fp32")
        measured = measure(
            network.to(accelerator.device), prepared, input_size=settings.input_size, accelerator=accelerator
        )
        facts, how = {"trained": False, "metrics": measured}, "as it came"
    else:
        weights = class_weights(prepared, balance=recipe.class_balance)
        trained = train(
            SupervisedTask(network, ignore_index=labels.ignore_index, class_weights=weights),
            prepared=prepared,
            input_size=settings.input_size,
            seed=settings.seed,
            curves=args.curves,
            title="teacher",
            checkpoints=args.checkpoints,
            checkpoint_seconds=settings.checkpoint_seconds,
            inputs={
                "model": {"name": model.name, **model.options},
                "initial_weights": network.initial_weights,
                "class_balance": recipe.class_balance,
            },
            **recipe.loop(images=len(prepared.splits["train"])),
        )
        facts, how = trained.facts, f"best of step {trained.facts['best_step']}"
    processes.leave()
    if not processes.is_main():
        return
    network_artifact.save(
        args.out,
        network,
        name=model.name,
        options=model.options,
        labels=labels,
        input_size=settings.input_size,
        facts={**facts, "parents": {"dataset": prepared.artifact.hash}},
    )
    if trained is not None:
        trained.finish()
    print(f"{args.out}: val mIoU {facts['metrics']['val']['miou']:.2f} ({how})")


if __name__ == "__main__":
    sys.exit(main())
