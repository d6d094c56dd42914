"""Prepared data set -> teacher network, trained, or with ``teacher.train: false`` evaluated as it came."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from accelerate import Accelerator

from pipeline import models, params
from pipeline.errors import command
from pipeline.prepared import Prepared
from pipeline.training import network_artifact
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
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    settings = params.load(args.params, kinds=("models",))
    prepared = Prepared(args.dataset)
    labels, model, recipe = prepared.labels, settings.teacher.model, settings.teacher.train
    seed_everything(settings.seed)
    network = models.build(model.name, model.options, num_classes=labels.num_classes, classes=labels.names)
    if recipe is False:
        check_complete(network)
        args.curves.mkdir(parents=True, exist_ok=True)  # empty: an output of the stage all the same
        network.to(Accelerator().device)
        facts = {"trained": False, "metrics": measure(network, prepared, input_size=settings.input_size)}
        how = "as it came"
    else:
        weights = class_weights(prepared.split("train"), labels, balance=recipe.class_balance)
        task = SupervisedTask(network, ignore_index=labels.ignore_index, class_weights=weights)
        facts, _ = train(
            task,
            prepared=prepared,
            input_size=settings.input_size,
            seed=settings.seed,
            curves=args.curves,
            title="teacher",
            **recipe.loop(),
        )
        how = f"best of step {facts['best_step']}"
    network_artifact.save(
        args.out,
        network,
        name=model.name,
        options=model.options,
        labels=labels,
        input_size=settings.input_size,
        facts={**facts, "parents": {"dataset": prepared.artifact.hash}},
    )
    print(f"{args.out}: val mIoU {facts['metrics']['val']['miou']:.2f} ({how})")


if __name__ == "__main__":
    sys.exit(main())
