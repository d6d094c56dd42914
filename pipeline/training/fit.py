"""The training loop: updates, validation, the best and the last weights, and all that is needed to resume."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from pipeline import progress as bars
from pipeline.models import SegNetwork
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.costs import Costs, Meter
from pipeline.training.curves import Curves
from pipeline.training.learner import Learner
from pipeline.training.prefetch import Prefetch
from pipeline.training.processes import Launcher

log = logging.getLogger(__name__)

#: Images (n, 3, H, W), targets (n, H, W) and the indices (n,) of their samples.
Batch = Sequence[Tensor]


@dataclass(frozen=True)
class Kept:
    """Weights that a run keeps: the number of steps before them, their metrics on val, and the weights."""

    step: int
    metrics: dict[str, Any]
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, step: int, metrics: dict[str, Any], network: SegNetwork) -> Kept:
        return cls(step=step, metrics=metrics, weights=copy.deepcopy(network.state_dict()))


def fit(
    learner: Learner,
    batches: Callable[[int], Iterable[Batch]],
    *,
    validate: Callable[[SegNetwork], dict[str, Any]],
    name_of: Callable[[int], str],
    curves: Path,
    checkpoints: Checkpoints | None,
    title: str,
    log_every: int = 1,
) -> tuple[Kept, Kept, Costs]:
    """Train; at the end the task's network holds the weights of the best validation, or the last without validations.

    Losses are read from the device, and checked, every ``log_every`` steps and before every validation. Checkpoints are
    written only after such a read. So no weights of a step that was not checked are validated or stored.

    Args:
        learner: its settings say how many steps, and when to validate.
        batches: takes the number of finished steps; returns this process's later batches, ``accumulate`` per step.
        validate: metrics of a network; ``miou`` decides which weights are best (percent, higher is better).
        name_of: name of a sample in messages, from its index.
        curves: folder for dvclive's tables.
        checkpoints: to resume from and to write to; None for neither.
        title: text of the progress bar.
        log_every: steps between two reads of the loss.

    Returns:
        the weights of the best validation; those after the last step (the same object if they are the best); and the
        costs of the training steps.

    Raises:
        UserError: loss or gradient is not finite, the loss explodes, or a checkpoint cannot be written.
    """
    accelerator, settings = learner.accelerator, learner.settings
    main, launcher = accelerator.is_main_process, Launcher(accelerator.num_processes)
    done, state = _newest(checkpoints, accelerator)
    if state is None:
        metrics = validate(learner.network) if settings.keep_start else {"miou": -1.0}
        best = Kept.of(0, metrics, learner.network)
    else:
        learner.restore(state["learner"])
        best, metrics = Kept(**state["best"]), state["newest_metrics"]
    with ExitStack() as stack:
        curve = stack.enter_context(Curves(curves if main else None, None if state is None else state["curves"]))
        progress = stack.enter_context(bars.make(disable=not main))
        bar = progress.add_task(title, total=settings.steps, completed=done)
        meter = Meter(accelerator.device, [] if state is None else state["seconds"].tolist())
        groups = Prefetch(
            _grouped(batches(done), settings.accumulate),
            device=accelerator.device, memory_format=learner.memory_format,
        )  # fmt: skip
        for step, parts in enumerate(groups, start=done + 1):
            launcher.check()
            names = [name_of(int(index)) for part in parts for index in part[2]]
            learner.update(parts, step=step, names=names)
            groups.load()
            ends = step == settings.steps
            validates = settings.validate_every is not None and (step % settings.validate_every == 0 or ends)
            if step % log_every and not (validates or ends):
                continue
            curve.write()
            readings = learner.read()
            meter.stop(steps=len(readings))
            for reading in readings:
                curve.log(reading.step, {f"train/{name}": value for name, value in reading.terms.items()})
            loss = readings[-1].terms["loss"]
            progress.update(bar, advance=len(readings), description=f"{title}  loss {loss:.3f}")
            if validates:
                metrics = validate(learner.network)
                curve.log(step, {"val/miou": metrics["miou"]})
                reached = f"{title}: step {step}/{settings.steps}, val mIoU {metrics['miou']:.2f}"
                progress.console.print(reached, markup=False)
                if metrics["miou"] > best.metrics["miou"]:
                    best = Kept.of(step, metrics, learner.network)
            if checkpoints is not None and main and (ends or checkpoints.due()):
                run_state = {
                    "learner": learner.state(),
                    "best": vars(best),
                    "newest_metrics": metrics,
                    "curves": curve.state(),
                    "seconds": torch.tensor(meter.seconds, dtype=torch.float64),
                }
                checkpoints.write(step, run_state, circumstances=_circumstances(accelerator))
            meter.start()
    last = best if best.step == settings.steps else Kept.of(settings.steps, metrics, learner.network)
    if settings.validate_every is None:
        best = last
    learner.task.network.load_state_dict(best.weights)
    return best, last, meter.read()


def _newest(checkpoints: Checkpoints | None, accelerator: Accelerator) -> tuple[int, dict[str, Any] | None]:
    """Number of finished steps and the state after them, the same in every process; the first process reads it."""
    newest = checkpoints.newest() if checkpoints is not None and accelerator.is_main_process else None
    if newest is not None:
        now, before = _circumstances(accelerator), newest[2]
        changes = [f"{name} was {before.get(name)}, is {now[name]}" for name in now if before.get(name) != now[name]]
        log.info("resuming after step %d%s", newest[0], f" ({'; '.join(changes)})" if changes else "")
    shared: list[tuple[int, dict[str, Any] | None]] = [(0, None) if newest is None else newest[:2]]
    if accelerator.num_processes > 1:
        broadcast_object_list(shared)
    return shared[0]


def _circumstances(accelerator: Accelerator) -> dict[str, Any]:
    """Conditions that may change when a run resumes: its results then differ by rounding."""
    threads = torch.get_num_threads() if accelerator.device.type == "cpu" else None
    return {"device": accelerator.device.type, "processes": accelerator.num_processes, "threads": threads}


def _grouped(batches: Iterable[Batch], accumulate: int) -> Iterator[list[Batch]]:
    """Lists of ``accumulate`` batches."""
    remaining = iter(batches)
    while group := list(itertools.islice(remaining, accumulate)):
        yield group
