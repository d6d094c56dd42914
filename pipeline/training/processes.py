"""Data-parallel training: which images each process takes, what they add up, and how one machine starts them.

A recipe's ``batch_size`` counts the images of one update, over all processes and accumulated parts, so that the same
recipe trains the same network on one GPU and on eight.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import UserError
from pipeline.training.tasks import SupervisedTask

#: How many processes a stage starts itself with: a number, or ``gpu`` for one a GPU.
PROCESSES = "SEGPRESS_PROCESSES"


def start_asked_for(environment: Mapping[str, str] = os.environ) -> None:
    """Turn this process into a launcher of itself when ``SEGPRESS_PROCESSES`` asks for several.

    ``SEGPRESS_PROCESSES=8 dvc repro`` trains on the 8 GPUs of this machine. A script that a launcher started
    (``torchrun``, ``accelerate launch``) goes on as it is.

    Raises:
        UserError: neither a number of processes nor ``gpu``.
    """
    asked = environment.get(PROCESSES, "1")
    if "LOCAL_RANK" in environment or asked == "1":
        return
    if asked == "gpu" and not torch.cuda.is_available():
        raise UserError(f"{PROCESSES}: got 'gpu', but torch finds none here; give a number of processes")
    if asked != "gpu" and not (asked.isdecimal() and int(asked) > 0):
        raise UserError(f"{PROCESSES}: got {asked!r}; allowed: a number of processes, or gpu for one a GPU")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={asked}"]
    os.execv(sys.executable, [*launcher, *sys.argv])  # noqa: S606 - own arguments, no shell


def is_main() -> bool:
    """Whether this process writes results and speaks: the only one, or the first of several."""
    return int(os.environ.get("RANK", "0")) == 0


def accelerator(*, precision: str, unused_parameters: bool = False) -> Accelerator:
    """Devices and processes of a run.

    Args:
        precision: fp32, fp16 or bf16 (autocast; weights stay fp32).
        unused_parameters: whether some trainable parameters may get no gradient in a step.

    Raises:
        UserError: fp16 without a GPU.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise UserError("precision: got 'fp16', which needs a GPU, and torch finds none here; use bf16 or fp32")
    parallel = DistributedDataParallelKwargs(find_unused_parameters=unused_parameters)
    launched = "LOCAL_RANK" in os.environ  # Accelerator joins processes without GPUs only when it is told
    return Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        cpu=launched and not torch.cuda.is_available(),
        kwargs_handlers=[parallel],
    )


def part_of_batch(batch_size: int, *, accumulate: int, processes: int) -> int:
    """Images that one process takes at a time.

    Raises:
        UserError: the batch cannot be divided evenly.
    """
    if batch_size % (accumulate * processes):
        raise UserError(
            f"batch_size: got {batch_size}; it counts the images of one update and must be a multiple of "
            f"{accumulate * processes} ({processes} processes, accumulate {accumulate})"
        )
    return batch_size // (accumulate * processes)


def ready_for_several(task: SupervisedTask, *, processes: int, images: int, sync_batch_norm: bool) -> None:
    """Make batch norm fit for parts of a batch, and keep the loss's buffers out of what processes exchange.

    DDP copies the buffers of the first process to all others before each step: right for batch-norm statistics, which
    then are the same everywhere; wasteful for a loss's memory, which holds the rows of all processes anyway.

    Args:
        images: that one process takes at a time.
        sync_batch_norm: statistics over the batch of all processes.

    Raises:
        UserError: SyncBN on CPUs, or batch norm that would see one image.
    """
    normalises = any(isinstance(module, _BatchNorm) for module in task.network.modules())
    synchronised = sync_batch_norm and processes > 1
    if synchronised and not torch.cuda.is_available():
        raise UserError(
            "sync_batch_norm: true needs GPUs, and training runs in several processes on CPUs: set it false"
        )
    if normalises and images == 1 and not synchronised:
        raise UserError(
            "each process takes 1 image at a time, of which batch norm gets no statistics: raise batch_size, lower "
            "accumulate or the number of processes" + (", or set sync_batch_norm: true" if processes > 1 else "")
        )
    if synchronised:
        convert_sync_batchnorm(task)
    loss: nn.Module | None = getattr(task, "loss", None)
    names = [f"loss.{name}" for name, _ in loss.named_buffers()] if loss is not None else []
    task._ddp_params_and_buffers_to_ignore = names  # type: ignore[assignment] # what DDP asks a module for


class Launcher:
    """Notices that the launcher of several processes is gone: they would train on without anyone to end them."""

    def __init__(self, processes: int) -> None:
        self._parent = os.getppid() if processes > 1 else None

    def check(self) -> None:
        """Raises UserError when the process that started this one has ended."""
        if self._parent is not None and os.getppid() != self._parent:
            raise UserError("the launcher of these processes has ended; training stops here and goes on when run again")


def total(accelerator: Accelerator, value: Tensor) -> Tensor:
    """Sum of a tensor over all processes."""
    summed: Tensor = accelerator.reduce(value, reduction="sum") if accelerator.num_processes > 1 else value
    return summed
