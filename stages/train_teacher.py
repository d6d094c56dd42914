"""Prepared data set -> teacher network, trained, or with ``teacher.train: false`` only evaluated."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import licence, models
from pipeline.errors import command
from pipeline.models.weights import network_artifact
from pipeline.prepared import Prepared
from pipeline.settings import params
from pipeline.training import processes
from pipeline.training.evaluation import measure_complete
from pipeline.training.run import train
from pipeline.training.seeding import seed_everything
from pipeline.training.settings import TrainingSettings
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
        facts = measure_complete(network, prepared, input_size=settings.input_size)
        args.curves.mkdir(parents=True, exist_ok=True)  # the stage must have this output; it is empty
    else:
        trained = train(
            SupervisedTask(network, ignore_index=labels.ignore_index),
            TrainingSettings.of(
                recipe, images=len(prepared.splits["train"]), input_size=settings.input_size, seed=settings.seed
            ),
            prepared=prepared,
            inputs={"model": {"name": model.name, **model.options}, "initial_weights": network.initial_weights},
            title="teacher",
            curves=args.curves,
            checkpoints=args.checkpoints,
            checkpoint_seconds=settings.checkpoint_seconds,
            workers=recipe.workers,
            store=recipe.store,
            log_every=recipe.log_every,
        )
        facts = trained.facts
    processes.leave()
    if not processes.is_main():
        return
    sources = licence.weights(network.initial_weights)
    if trained is not None:  # else the data set only measures it
        sources = [licence.data(prepared.artifact.meta), *sources]
    network_artifact.save(
        args.out, network, name=model.name, options=model.options, labels=labels, input_size=settings.input_size,
        facts={**facts, "licences": sources, "parents": {"dataset": prepared.artifact.hash}},
        last=trained.last if trained else None,
    )  # fmt: skip
    if trained is not None:
        trained.finish()
    outcome = trained or f"val mIoU {facts['metrics']['val']['miou']:.2f} (not trained)"
    print(f"{args.out}: {outcome}")


if __name__ == "__main__":
    sys.exit(main())
