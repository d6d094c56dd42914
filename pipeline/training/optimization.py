"""Parameter groups, the optimiser, and how its learning rate changes over a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.settings.param_types import Optimizer, Schedule
from pipeline.training.tasks import SupervisedTask

#: The part of the task that a parameter belongs to.
PARTS = ("encoder", "head", "loss")


def learning_rate_factor(step: int, *, schedule: Schedule, steps: int, warmup: int, power: float) -> float:
    """Factor of the learning rate at a 0-based step: a linear rise over ``warmup`` steps, then the schedule.

    With t from 0 to 1 over the steps after the warm-up, ``poly`` is (1 - t)^power (Liu et al. 2015; power 0.9 is
    customary in segmentation), ``cosine`` is (1 + cos(pi t)) / 2 (Loshchilov and Hutter 2017), ``constant`` is 1.

    Example:
        >>> [round(learning_rate_factor(s, schedule="poly", steps=4, warmup=2, power=1.0), 2) for s in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "poly":
        return float((1 - done) ** power)
    return 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0


def parameter_groups(
    task: SupervisedTask, *, lr: float, lr_factors: Mapping[str, float], weight_decay: float, decay_norms: bool
) -> list[dict[str, Any]]:
    """Groups of trainable parameters, each with its own learning rate and weight decay.

    Args:
        lr_factors: factors of ``lr`` for ``encoder``, ``head`` (the rest of the network) and ``loss`` (its adapters). A
            part with factor 0 is frozen: it gets no gradient (its batch norm still follows the data).
        decay_norms: whether vectors (norm layers and biases) decay too, as in the CIRKD protocol.

    Returns:
        non-empty groups; ``peak_lr`` is the learning rate that the schedule's factor multiplies.

    Raises:
        UserError: nothing is left to train.
    """
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for part, parameter in _parts(task):
        if lr_factors[part] == 0:
            parameter.requires_grad_(False)
        if not parameter.requires_grad:
            continue
        decays = decay_norms or parameter.ndim > 1
        peak = lr * lr_factors[part]
        group = {"params": [], "lr": peak, "peak_lr": peak, "weight_decay": weight_decay if decays else 0.0}
        groups.setdefault((part, decays), group)["params"].append(parameter)
    if not groups:
        raise UserError(f"lr_factors: got {dict(lr_factors)}; at least one part must have a factor above 0")
    return list(groups.values())


def _parts(task: SupervisedTask) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter of a task once, with its part."""
    seen: set[int] = set()
    encoder = task.network.encoder
    modules = (encoder if encoder is not None else nn.Module(), task.network, task)
    for part, module in zip(PARTS, modules, strict=True):
        for parameter in module.parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield part, parameter


def make_optimizer(groups: list[dict[str, Any]], *, name: Optimizer, momentum: float) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW (betas 0.9 and 0.999), over parameter groups.

    Both are fused: one pass over memory instead of one per operation. On a GPU, a fused kernel also skips the update
    itself when fp16 overflows; for other kernels the host must wait for that flag. Call :func:`fill_momentum` when the
    parameters are on their device.
    """
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, fused=True)  # every group has its own rate
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def fill_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give the parameters of SGD a momentum of zero, where they have none.

    torch 2.14 allocates the momentum in the first step without a value. If fp16 overflows in this step, the kernel
    returns at once, and the second step would read what was in memory there. Zeros do not change the result of the
    first step.
    """
    for group in optimizer.param_groups:
        if group.get("momentum"):
            for parameter in group["params"]:
                optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the state of an optimiser over the same parameters, which may have run on another device.

    Tensors get the strides of their parameter, as a fused kernel needs them: checkpoints hold them contiguous.
    """
    optimizer.load_state_dict(dict(state))
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter).copy_(value)
    fill_momentum(optimizer)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its peak learning rate times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
