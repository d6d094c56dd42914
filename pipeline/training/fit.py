"""The training loop: updates, validation, best weights kept, and everything needed to go on after an interruption."""

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
from pipeline.training.processes import Launcher

log = logging.getLogger(__name__)

#: Images (n, 3, H, W), targets (n, H, W) and the indices (n,) of their samples.
Batch = Sequence[Tensor]


@dataclass(frozen=True)
class Best:
    """The best validation of a run: step (1-based), its metrics and the weights."""

    step: int
    metrics: dict[str, Any]
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, step: int, metrics: dict[str, Any], network: SegNetwork) -> Best:
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
    steps: int,
    accumulate: int,
    validate_every: int,
    keep_start: bool = False,
) -> tuple[Best, Costs]:
    """Train; at the end the task's network holds the weights of the best validation.

    Args:
        batches: given how many steps are done, the batches of this process after them, ``accumulate`` for each step.
        validate: metrics of a network as it is; ``miou`` decides (percent, higher is better).
        name_of: what to call the sample of an index in messages.
        curves: folder for dvclive's tables.
        checkpoints: where to go on from and to write to; None for neither.
        title: what the progress bar says.
        accumulate: batches whose gradients make one update.
        keep_start: whether the weights before the first step may be the best ones.

    Returns:
        the best validation, and what the training steps cost.

    Raises:
        UserError: loss or gradient is not finite, the loss explodes, or a checkpoint cannot be written.
    """
    accelerator = learner.accelerator
    main, launcher = accelerator.is_main_process, Launcher(accelerator.num_processes)
    done, state = _newest(checkpoints, accelerator)
    if state is None:
        best = Best.of(0, validate(learner.network) if keep_start else {"miou": -1.0}, learner.network)
    else:
        learner.restore(state["learner"])
        best = Best(**state["best"])
    with ExitStack() as stack:
        curve = stack.enter_context(Curves(curves if main else None, None if state is None else state["curves"]))
        progress = stack.enter_context(bars.make(disable=not main))
        bar = progress.add_task(title, total=steps, completed=done)
        meter = Meter(accelerator.device, [] if state is None else state["seconds"].tolist())
        for step, parts in enumerate(_grouped(batches(done), accumulate), start=done + 1):
            launcher.check()
            names = [name_of(int(index)) for part in parts for index in part[2]]
            terms = learner.update(parts, step=step, names=names)
            meter.stop()
            curve.log(step, {f"train/{name}": value for name, value in terms.items()})
            progress.update(bar, advance=1, description=f"{title}  loss {terms['loss']:.3f}")
            if step % validate_every == 0 or step == steps:
                metrics = validate(learner.network)
                curve.log(step, {"val/miou": metrics["miou"]})
                progress.console.print(f"{title}: step {step}/{steps}, val mIoU {metrics['miou']:.2f}", markup=False)
                if metrics["miou"] > best.metrics["miou"]:
                    best = Best.of(step, metrics, learner.network)
            if checkpoints is not None and main and (step == steps or checkpoints.due()):
                reached = {
                    "learner": learner.state(),
                    "best": vars(best),
                    "curves": curve.state(),
                    "seconds": torch.tensor(meter.seconds, dtype=torch.float64),
                }
                checkpoints.write(step, reached, circumstances=_circumstances(accelerator))
            meter.start()
    learner.task.network.load_state_dict(best.weights)
    return best, meter.read()


def _newest(checkpoints: Checkpoints | None, accelerator: Accelerator) -> tuple[int, dict[str, Any] | None]:
    """Steps that are done and the state after them, the same in every process; the first one reads it."""
    found = checkpoints.newest() if checkpoints is not None and accelerator.is_main_process else None
    if found is not None:
        now, before = _circumstances(accelerator), found[2]
        changed = [f"{name} was {before.get(name)}, is {now[name]}" for name in now if before.get(name) != now[name]]
        log.info("going on after step %d%s", found[0], f" ({'; '.join(changed)})" if changed else "")
    shared: list[tuple[int, dict[str, Any] | None]] = [(0, None) if found is None else found[:2]]
    if accelerator.num_processes > 1:
        broadcast_object_list(shared)
    return shared[0]


def _circumstances(accelerator: Accelerator) -> dict[str, Any]:
    """What a run that goes on may have otherwise: its results then differ by rounding."""
    threads = torch.get_num_threads() if accelerator.device.type == "cpu" else None
    return {"device": accelerator.device.type, "processes": accelerator.num_processes, "threads": threads}


def _grouped(batches: Iterable[Batch], accumulate: int) -> Iterator[list[Batch]]:
    """Lists of ``accumulate`` batches."""
    remaining = iter(batches)
    while group := list(itertools.islice(remaining, accumulate)):
        yield group
