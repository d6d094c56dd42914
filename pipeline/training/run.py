"""One training run on a prepared data set: loader, loop, validation with the graph that will be exported."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from pipeline.errors import UserError
from pipeline.prepared import Prepared
from pipeline.training import data, processes
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.costs import MIB, Costs
from pipeline.training.evaluation import check_size, measure, metrics_of
from pipeline.training.fit import Batch, fit
from pipeline.training.identity import Identity
from pipeline.training.learner import Learner
from pipeline.training.memory import Estimate, advise, estimate, explained
from pipeline.training.seeding import seed_everything
from pipeline.training.store import Mode, open_split
from pipeline.training.tasks import SupervisedTask

log = logging.getLogger(__name__)


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
    colour_jitter: float,
    batch_size: int,
    accumulate: int,
    workers: int,
    store: Mode,
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
        scale, colour_jitter: see :class:`pipeline.training.augment.Augmentation`.
        batch_size: images of one update, over all processes and accumulated parts.
        store: whether frames are decoded once, see :func:`pipeline.training.store.open_split`.
        precision: fp32, fp16 or bf16 (autocast; weights stay fp32).
        checkpoints: folder for what an interrupted run goes on from; None to keep nothing. They are
            removed by :meth:`Trained.finish`, when the result is safe.
        checkpoint_seconds: at least so long between two.
        inputs: hashes and options of what the run was built from; with the settings they tell runs apart.
        settings: of the :class:`pipeline.training.learner.Learner`.

    Raises:
        UserError: a data set in which nothing can be learnt, sizes that the network cannot take, a batch that cannot
            be divided, memory that does not suffice, and what training raises.
    """
    prepared.require_classes()
    seed_everything(seed)
    network, labels = task.network, prepared.labels
    check_size("input_size", input_size, network)
    check_size("crop", crop or input_size, network)
    accelerator = processes.accelerator(precision=precision)
    images = processes.part_of_batch(batch_size, accumulate=accumulate, processes=accelerator.num_processes)
    planned = _announced(
        task, (images, *(crop or input_size)), accelerator, precision=precision, accumulate=accumulate,
        optimizer=settings["optimizer"], ema=settings["ema"] is not None,
    )  # fmt: skip
    train_split = open_split(prepared, "train", mode=store, say=log.info if accelerator.is_main_process else log.debug)
    augment = data.augmentation(
        crop=crop or input_size, input_size=input_size, scale=scale, colour=colour_jitter, labels=labels,
        mean=network.mean,
    )  # fmt: skip
    crops = data.Crops(train_split, augment, seed=seed)

    def batches(first: int) -> Iterable[Batch]:
        draws = data.Draws(
            length=len(crops), steps=steps, images=images, seed=seed, first=first,
            accumulate=accumulate, process=accelerator.process_index, processes=accelerator.num_processes,
        )  # fmt: skip
        return data.batches(crops, draws, workers=workers)

    val = prepared.split("val")
    metrics = partial(metrics_of, split=val, labels=labels, input_size=input_size, accelerator=accelerator)
    told = {
        **settings, "validate_every": validate_every, "keep_start": keep_start,
        "input_size": input_size, "crop": crop, "scale": scale, "colour_jitter": colour_jitter,
        "batch_size": batch_size, "accumulate": accumulate, "steps": steps, "seed": seed, "precision": precision,
    }  # fmt: skip
    identity = Identity(settings=told, inputs={"dataset": prepared.facts_hash, **(inputs or {})})
    kept = None if checkpoints is None else Checkpoints(checkpoints, identity, every_seconds=checkpoint_seconds)
    with (
        kept if kept is not None and accelerator.is_main_process else nullcontext(),
        explained(planned, accelerator.device),
    ):
        learner = Learner(task, accelerator=accelerator, images=images, steps=steps, seed=seed, **settings)
        best, costs = fit(
            learner, batches, validate=metrics,
            name_of=lambda index: train_split.names[index], curves=curves, checkpoints=kept, title=title,
            steps=steps, accumulate=accumulate, validate_every=validate_every, keep_start=keep_start,
        )  # fmt: skip
        measured = measure(network, prepared, input_size=input_size, accelerator=accelerator)
    if planned is not None:
        expected = planned.measured(accelerator.device) / MIB
        log.info("peak memory of training: %.0f MiB, estimated %.0f", costs.peak_memory_mib, expected)
    return Trained(facts={"best_step": best.step, "metrics": measured}, costs=costs, checkpoints=kept)


def _announced(
    task: SupervisedTask, shape: tuple[int, int, int], accelerator: Accelerator, **options: Any
) -> Estimate | None:
    """The memory that the run will take, said before it starts; None where that cannot be estimated."""
    if not accelerator.is_main_process:
        return None
    try:
        found = estimate(task, shape=shape, device=accelerator.device, processes=accelerator.num_processes, **options)
    except UserError as error:
        log.warning("%s", error)
        return None
    log.info("%s", advise(found, accelerator.device))
    return found
