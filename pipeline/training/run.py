"""One training run on a prepared data set: loader, loop, validation with the graph that will be exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.evaluation.accuracy import evaluate
from pipeline.export.torch_engine import TorchEngine
from pipeline.prepared import Prepared
from pipeline.training import data
from pipeline.training.costs import Costs
from pipeline.training.evaluation import check_size, measure
from pipeline.training.fit import fit
from pipeline.training.seeding import seed_everything
from pipeline.training.tasks import SupervisedTask


def train(
    task: SupervisedTask,
    *,
    prepared: Prepared,
    input_size: tuple[int, int],
    crop: tuple[int, int] | None,
    scale: tuple[float, float],
    batch_size: int,
    workers: int,
    steps: int,
    seed: int,
    curves: Path,
    title: str,
    **schedule: Any,
) -> tuple[dict[str, Any], Costs]:
    """Train a task in place.

    Args:
        input_size: (height, width) of the deployed network; validation runs at it.
        crop: (height, width) of training crops; None is ``input_size``.
        schedule: passed on to :func:`pipeline.training.fit.fit`.

    Returns:
        facts for meta.json: ``best_step`` and ``metrics`` of every labelled split but train, at original label size;
        and what the training steps cost, which is no fact of the network: it differs from run to run.
    """
    seed_everything(seed)
    network, labels = task.network, prepared.labels
    check_size("input_size", input_size, network)
    check_size("crop", crop or input_size, network)
    transform = data.recipe(
        crop=crop or input_size, input_size=input_size, scale=scale, labels=labels, mean=network.mean, std=network.std
    )
    crops = data.Crops(prepared.split("train"), transform, seed=seed)
    loader = data.batches(crops, steps=steps, batch_size=batch_size, workers=workers, seed=seed)

    def metrics(split: str) -> dict[str, Any]:
        engine = TorchEngine(network, input_size=input_size)
        return evaluate(engine, prepared.split(split), labels=labels)[0]

    best, costs = fit(
        task, loader, validate=lambda: metrics("val"), curves=curves, steps=steps, title=title, **schedule
    )
    return {"best_step": best.step, "metrics": measure(network, prepared, input_size=input_size)}, costs
