"""One training run on a prepared data set: loader, loop, validation with the graph that will be exported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pipeline.errors import UserError
from pipeline.evaluation.accuracy import confusion
from pipeline.evaluation.confusion import ConfusionMatrix
from pipeline.export.torch_engine import TorchEngine
from pipeline.models import SegNetwork
from pipeline.prepared import Prepared
from pipeline.training import data, processes
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.costs import Costs
from pipeline.training.fit import Batch, fit
from pipeline.training.identity import Identity
from pipeline.training.learner import Learner
from pipeline.training.seeding import seed_everything
from pipeline.training.tasks import SupervisedTask


@dataclass(frozen=True)
class Trained:
    """What a run gives.

    Attributes:
        facts: for meta.json: ``best_step`` and ``metrics`` of every labelled split but train, at original label size.
        costs: of the training steps; no fact of the network, as they differ from run to run.
    """

    facts: dict[str, Any]
    costs: Costs
    checkpoints: Checkpoints | None

    def finish(self) -> None:
        """Remove the checkpoints: the result is written, nothing will go on from them."""
        if self.checkpoints is not None:
            self.checkpoints.remove()


def train(
    task: SupervisedTask,
    *,
    prepared: Prepared,
    input_size: tuple[int, int],
    crop: tuple[int, int] | None,
    scale: tuple[float, float],
    batch_size: int,
    accumulate: int,
    workers: int,
    steps: int,
    seed: int,
    precision: str,
    curves: Path,
    title: str,
    checkpoints: Path | None = None,
    checkpoint_seconds: float = 60.0,
    inputs: Mapping[str, Any] | None = None,
    validate_every: int,
    keep_start: bool = False,
    **settings: Any,
) -> Trained:
    """Train a task in place.

    Args:
        input_size: (height, width) of the deployed network; validation runs at it.
        crop: (height, width) of training crops; None is ``input_size``.
        batch_size: images of one update, over all processes and accumulated parts.
        precision: fp32, fp16 or bf16 (autocast; weights stay fp32).
        checkpoints: folder for what an interrupted run goes on from; None to keep nothing. They are
            removed by :meth:`Trained.finish`, when the result is safe.
        checkpoint_seconds: at least so long between two.
        inputs: hashes and options of what the run was built from; with the settings they tell runs apart.
        settings: of the :class:`pipeline.training.learner.Learner`.

    Raises:
        UserError: sizes that the network cannot take, a batch that cannot be divided, and what training raises.
    """
    seed_everything(seed)
    network, labels, train_split = task.network, prepared.labels, prepared.split("train")
    for name, size in (("input_size", input_size), ("crop", crop or input_size)):
        if any(side % network.facts.divisor for side in size):
            raise UserError(f"{name}: got {list(size)}; this network needs multiples of {network.facts.divisor}")
    adapts = any(parameter.requires_grad for name, parameter in task.named_parameters() if name.startswith("loss."))
    accelerator = processes.accelerator(precision=precision, unused_parameters=adapts)
    images = processes.part_of_batch(batch_size, accumulate=accumulate, processes=accelerator.num_processes)
    transform = data.recipe(
        crop=crop or input_size, input_size=input_size, scale=scale, labels=labels, mean=network.mean, std=network.std
    )
    crops = data.Crops(train_split, transform, seed=seed)

    def batches(first: int) -> Iterable[Batch]:
        draws = data.Draws(
            length=len(crops), steps=steps, images=images, seed=seed, first=first,
            accumulate=accumulate, process=accelerator.process_index, processes=accelerator.num_processes,
        )  # fmt: skip
        return data.batches(crops, draws, workers=workers)

    metrics = _metrics_of(prepared, input_size, accelerator)
    told = {
        **settings, "validate_every": validate_every, "keep_start": keep_start,
        "input_size": input_size, "crop": crop, "scale": scale, "batch_size": batch_size,
        "accumulate": accumulate, "steps": steps, "seed": seed, "precision": precision,
    }  # fmt: skip
    identity = Identity(settings=told, inputs={"dataset": prepared.artifact.hash, **(inputs or {})})
    store = None if checkpoints is None else Checkpoints(checkpoints, identity, every_seconds=checkpoint_seconds)
    with store if store is not None and accelerator.is_main_process else nullcontext():
        learner = Learner(task, accelerator=accelerator, images=images, steps=steps, seed=seed, **settings)
        best, costs = fit(
            learner, batches, validate=lambda trained: metrics(trained, "val"),
            name_of=lambda index: train_split.names[index], curves=curves, checkpoints=store, title=title,
            steps=steps, accumulate=accumulate, validate_every=validate_every, keep_start=keep_start,
        )  # fmt: skip
        measured = {split: metrics(network, split) for split in prepared.splits if split != "train"}
    return Trained(facts={"best_step": best.step, "metrics": measured}, costs=costs, checkpoints=store)


def _metrics_of(
    prepared: Prepared, input_size: tuple[int, int], accelerator: Accelerator
) -> Callable[[SegNetwork, str], dict[str, Any]]:
    """A function that gives the metrics of a network on a split; every process takes a part of the frames."""

    def metrics(network: SegNetwork, split: str) -> dict[str, Any]:
        part = range(accelerator.process_index, len(prepared.split(split)), accelerator.num_processes)
        engine = TorchEngine(network, input_size=input_size)
        found = confusion(engine, prepared.split(split), labels=prepared.labels, indices=part)
        counts = processes.total(accelerator, torch.from_numpy(found.counts).to(accelerator.device)).cpu().numpy()
        return ConfusionMatrix.of(counts, ignore_index=prepared.labels.ignore_index).summary()

    return metrics
