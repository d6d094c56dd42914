"""The training loop: steps, poly schedule, validation, best weights kept."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from dvclive import Live
from torch import Tensor, nn

from pipeline import progress as bars
from pipeline.errors import UserError
from pipeline.training.costs import Costs, Meter
from pipeline.training.tasks import SupervisedTask

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Best:
    """The best validation of a run: step (1-based) and its metrics."""

    step: int
    metrics: dict[str, Any]


def poly_with_warmup(step: int, *, steps: int, warmup: int, power: float) -> float:
    """Factor of the learning rate at a 0-based step: linear up over ``warmup`` steps, then (1 - t)^power down to 0.

    Example:
        >>> [round(poly_with_warmup(s, steps=4, warmup=2, power=1.0), 2) for s in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    if step < warmup:
        return (step + 1) / warmup
    return float((1 - (step - warmup) / max(1, steps - warmup)) ** power)


def make_optimizer(task: nn.Module, *, name: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD (momentum 0.9) or AdamW over every trainable parameter of the task, the loss's adapters included."""
    parameters = [p for p in task.parameters() if p.requires_grad]
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=weight_decay)
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)


def fit(
    task: SupervisedTask,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    validate: Callable[[], dict[str, Any]],
    curves: Path,
    steps: int,
    optimizer: str,
    lr: float,
    weight_decay: float,
    power: float,
    warmup: int,
    validate_every: int,
    precision: str,
    title: str,
    keep_start: bool = False,
) -> tuple[Best, Costs]:
    """Train a task; at the end its network holds the weights of the best validation.

    Args:
        loader: ``steps`` batches of x (N, 3, H, W), target (N, H, W).
        validate: metrics of the network as it is; ``miou`` decides (percent, higher is better).
        curves: folder for dvclive's tables.
        precision: fp32, fp16 or bf16 (autocast; weights stay fp32).
        title: what the progress bar says.
        keep_start: whether the weights before the first step may be the best ones.

    Returns:
        the best validation, and what the training steps cost.

    Raises:
        UserError: the loss is not finite; the message names step and terms.
    """
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
    if accelerator.num_processes > 1:
        raise UserError(
            f"got {accelerator.num_processes} processes; training runs in one for now: start it without a launcher"
        )
    model, optimiser = accelerator.prepare(task, make_optimizer(task, name=optimizer, lr=lr, weight_decay=weight_decay))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser.optimizer, lambda step: poly_with_warmup(step, steps=steps, warmup=warmup, power=power)
    )
    start = validate() if keep_start else {"miou": -1.0}
    best, weights = Best(step=0, metrics=start), copy.deepcopy(task.network.state_dict())
    with (
        Live(str(curves), save_dvc_exp=False, dvcyaml=None, report=None) as live,
        bars.make() as progress,
    ):
        bar = progress.add_task(title, total=steps)
        model.train()
        meter = Meter(accelerator.device)
        for step, (x, target) in enumerate(loader, start=1):
            with accelerator.autocast():
                terms = model(x.to(accelerator.device), target.to(accelerator.device))
            check_finite(terms, step)
            accelerator.backward(terms["loss"])
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
            meter.stop()
            live.step = step
            for name, value in terms.items():
                live.log_metric(f"train/{name}", float(value.detach()), timestamp=False)
            progress.update(bar, advance=1, description=f"{title}  loss {float(terms['loss'].detach()):.3f}")
            if step % validate_every == 0 or step == steps:
                metrics = validate()
                live.log_metric("val/miou", metrics["miou"], timestamp=False)
                progress.console.print(f"{title}: step {step}/{steps}, val mIoU {metrics['miou']:.2f}")
                if metrics["miou"] > best.metrics["miou"]:
                    best, weights = Best(step=step, metrics=metrics), copy.deepcopy(task.network.state_dict())
            meter.start()
    task.network.load_state_dict(weights)
    return best, meter.read()


def check_finite(terms: dict[str, Tensor], step: int) -> None:
    """Refuse to go on with a loss that is NaN or infinite."""
    if not bool(torch.isfinite(terms["loss"])):
        values = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in terms.items())
        raise UserError(
            f"the loss is not finite at step {step} ({values}); lower the learning rate or the term's weight"
        )
