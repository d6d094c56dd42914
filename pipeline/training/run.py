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
from torch import Tensor

from pipeline.errors import UserError
from pipeline.prepared import UNLABELLED, Prepared, Unlabelled
from pipeline.settings.param_types import StoreMode
from pipeline.training import data, processes
from pipeline.training.allocator import keep_freed_memory
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.costs import MIB, Costs
from pipeline.training.distillation import DistillationTask
from pipeline.training.evaluation import check_size, frames_at_once, measure, metrics_of
from pipeline.training.fit import Batch, Kept, fit
from pipeline.training.frame_outputs import frame_outputs
from pipeline.training.identity import Identity
from pipeline.training.learner import Learner
from pipeline.training.memory import Estimate, advise, estimate, explained
from pipeline.training.readings import EVERY
from pipeline.training.seeding import choose_kernels, seed_everything
from pipeline.training.settings import TrainingSettings
from pipeline.training.store import open_split
from pipeline.training.tasks import SupervisedTask
from pipeline.training.unlabelled import ready_for_unlabelled

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """The result of a run.

    Attributes:
        facts: for meta.json: ``best_step`` and ``metrics`` of every labelled split but train, at original label size;
            ``step`` and ``metrics`` of the weights after the last step as ``last``. Without validations the metrics are
            empty and the best weights are the last ones.
        last: weights after the last step; None where they are the best ones.
        costs: costs of the training steps; not among the facts, since they differ from run to run.
        checkpoints: checkpoints of the run; None when it wrote none.
    """

    facts: dict[str, Any]
    last: Mapping[str, Tensor] | None
    costs: Costs
    checkpoints: Checkpoints | None

    def __str__(self) -> str:
        best, last = self.facts["metrics"]["val"]["miou"], self.facts["last"]["metrics"]["val"]["miou"]
        if self.last is None:
            return f"val mIoU {best:.2f} (best and last, step {self.facts['best_step']})"
        steps = self.facts["best_step"], self.facts["last"]["step"]
        return f"val mIoU {best:.2f} (best, step {steps[0]}), {last:.2f} (last, step {steps[1]})"

    def finish(self) -> None:
        """Remove the checkpoints. Call it when the result is written."""
        if self.checkpoints is not None:
            self.checkpoints.remove()


def train(
    task: SupervisedTask,
    settings: TrainingSettings,
    *,
    prepared: Prepared,
    inputs: Mapping[str, Any],
    title: str,
    curves: Path,
    checkpoints: Path | None = None,
    checkpoint_seconds: float = 60.0,
    workers: int = 0,
    store: StoreMode = "none",
    log_every: int | None = None,
    unlabelled: Unlabelled | None = None,
) -> Trained:
    """Train a task in place; at the end its network holds the best weights on val.

    Args:
        inputs: hashes and options of the task's inputs; with the settings they identify the run.
        title: text of the progress bar.
        curves: folder for the training curves.
        checkpoints: folder for the checkpoints from which an interrupted run resumes; None writes none.
            :meth:`Trained.finish` removes them when the result is written.
        checkpoint_seconds: least seconds between two checkpoints.
        workers: processes that load crops; 0: this process loads them.
        store: whether frames are decoded once, see :func:`pipeline.training.store.open_split`.
        log_every: steps between two reads of the loss from the device; None: see ``training.readings.EVERY``.
        unlabelled: frames without labels; ``settings.unlabelled_images`` of them are in every batch of a distillation.

    Raises:
        UserError: the data set has too few classes to learn, the network cannot take the sizes, the batch cannot be
            divided, memory does not suffice, or an error of :func:`pipeline.training.fit.fit`.
    """
    prepared.require_classes()
    seed_everything(settings.seed)
    network, labels, input_size = task.network, prepared.labels, settings.input_size
    check_size("input_size", input_size, network)
    check_size("crop", settings.crop_size, network)
    task.class_weights = data.class_weights(prepared, balance=settings.class_balance)
    accelerator = processes.accelerator(precision=settings.precision)
    main = accelerator.is_main_process
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    choose_kernels(settings.determinism, device=accelerator.device, say=log.warning if main else log.debug)
    images = processes.part_of_batch(
        settings.batch_size, accumulate=settings.accumulate, processes=accelerator.num_processes
    )
    augment = data.augmentation(
        crop=settings.crop_size, input_size=input_size, scale=settings.scale, colour=settings.colour_jitter,
        labels=labels,
    )  # fmt: skip
    task.padding = augment.padding if augment.pads else None
    planned = _announced(task, settings, accelerator, images=images)
    say = log.info if main else log.debug
    train_split = open_split(prepared, "train", mode=store, say=say)
    val = open_split(prepared, "val", mode=store, say=say)
    without = None if unlabelled is None else open_split(unlabelled, UNLABELLED, mode=store, say=say)
    crops = data.Crops(train_split, augment, seed=settings.seed, unlabelled=without)

    def batches(first: int) -> Iterable[Batch]:
        draws = data.Draws(
            length=len(train_split), steps=settings.steps, images=images, seed=settings.seed, first=first,
            accumulate=settings.accumulate, process=accelerator.process_index, processes=accelerator.num_processes,
            unlabelled=len(without or ()), per_update=settings.unlabelled_images,
        )  # fmt: skip
        return data.batches(crops, draws, workers=workers)

    at_once = frames_at_once(images, crop=settings.crop_size, input_size=input_size, device=accelerator.device)
    metrics = partial(
        metrics_of, split=val, labels=labels, input_size=input_size, accelerator=accelerator, batch=at_once,
        autocast=nullcontext if settings.validates_in_fp32 else accelerator.autocast,
    )  # fmt: skip

    def metrics_by_split(kept: Kept) -> dict[str, dict[str, Any]]:
        network.load_state_dict(kept.weights)
        return {} if settings.validate_every is None else measure(
            network, prepared, input_size=input_size, accelerator=accelerator, batch=at_once,
            known={"val": kept.metrics} if settings.validates_in_fp32 else {},
        )  # fmt: skip

    frames = {} if unlabelled is None else {"unlabelled": unlabelled.facts_hash}
    identity = Identity(settings, {"dataset": prepared.facts_hash, **frames, **inputs})
    kept = None if checkpoints is None else Checkpoints(checkpoints, identity, every_seconds=checkpoint_seconds)
    with (
        kept if kept is not None and main else nullcontext(),
        explained(planned, accelerator.device),
    ):
        learner = Learner(task, settings, accelerator=accelerator, images=images)
        if isinstance(task, DistillationTask) and unlabelled is not None:
            ready_for_unlabelled(task, settings, crops=crops, accelerator=accelerator, names=labels.names)
        if isinstance(task, DistillationTask):
            crops.outputs = frame_outputs(task, crops, input_size=input_size, accelerator=accelerator)
        best, last, costs = fit(
            learner, batches, validate=metrics, name_of=crops.name, curves=curves,
            checkpoints=kept, title=title, log_every=log_every or EVERY.get(accelerator.device.type, 1),
        )  # fmt: skip
        of_last = None if last is best else metrics_by_split(last)
        of_best = metrics_by_split(best)  # the last call: the task keeps these weights
    if planned is not None:
        expected = planned.measured(accelerator.device) / MIB
        log.info("peak memory of training: %.0f MiB, estimated %.0f", costs.peak_memory_mib, expected)
    facts = {
        "best_step": best.step, "metrics": of_best, "last": {"step": last.step, "metrics": of_last or of_best},
    }  # fmt: skip
    return Trained(facts=facts, last=None if last is best else last.weights, costs=costs, checkpoints=kept)


def _announced(
    task: SupervisedTask, settings: TrainingSettings, accelerator: Accelerator, *, images: int
) -> Estimate | None:
    """Print how much memory the run will take; None when it cannot be estimated, or in other processes."""
    if not accelerator.is_main_process:
        return None
    try:
        planned = estimate(
            task, shape=(images, *settings.crop_size), optimizer=settings.optimizer, precision=settings.precision,
            ema=settings.ema is not None, accumulate=settings.accumulate, processes=accelerator.num_processes,
            device=accelerator.device,
        )  # fmt: skip
    except UserError as error:
        log.warning("%s; the training starts without an estimate", error)
        return None
    log.info("%s", advise(planned, accelerator.device))
    return planned
