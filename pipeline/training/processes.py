"""Data-parallel training: which images each process takes, what the processes sum, and how one machine starts them.

A recipe's ``batch_size`` counts the images of one update, over all processes and accumulated parts, so that the same
recipe trains the same network on one GPU and on eight.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

import torch
import torch.distributed.run
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from timm.layers import convert_sync_batchnorm
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import UserError
from pipeline.models import SegNetwork
from pipeline.training.tasks import SupervisedTask

#: How many processes of itself a stage starts: a number, or ``gpu`` for one per GPU.
PROCESSES = "SEGPRESS_PROCESSES"
#: Variables that `accelerate config` may set for all programs of a user; here params.yaml decides.
SET_BY_LAUNCHERS = ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_DYNAMO_BACKEND")


def start_asked_for(environment: Mapping[str, str] = os.environ) -> None:
    """Turn this process into a launcher of itself when ``SEGPRESS_PROCESSES`` asks for several.

    ``SEGPRESS_PROCESSES=8 dvc repro`` trains on the 8 GPUs of this machine. A script that a launcher started
    (``torchrun``, ``accelerate launch``) continues as it is. Call it when inputs have been checked, so that an error in
    them is printed once.

    Raises:
        UserError: neither a number of processes nor ``gpu``.
        SystemExit: the launched processes have ended; the code is 1 if one of them failed.
    """
    asked = environment.get(PROCESSES, "1")
    if "LOCAL_RANK" in environment or asked == "1":
        return
    if asked == "gpu" and not torch.cuda.is_available():
        raise UserError(f"{PROCESSES}: got 'gpu', but torch finds none here; give a number of processes")
    if asked != "gpu" and not (asked.isdecimal() and int(asked) > 0):
        raise UserError(f"{PROCESSES}: got {asked!r}; allowed: a number of processes, or gpu for one per GPU")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the script has said what is wrong
    try:
        torch.distributed.run.main(["--standalone", f"--nproc-per-node={asked}", *sys.argv])
    except ChildFailedError:
        sys.exit(1)
    sys.exit(0)


def is_main() -> bool:
    """Whether this process writes results and prints: the only one, or the first of several."""
    return int(os.environ.get("RANK", "0")) == 0


def leave() -> None:
    """Leave the group of processes, if this process joined one. Call it after the last exchange of results.

    Threads of the group that still run when Python ends can abort the process. Do not call it after an error: it would
    wait for exchanges that the other processes never finish.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def accelerator(*, precision: str) -> Accelerator:
    """Devices and processes of a run.

    Args:
        precision: fp32, fp16 or bf16 (autocast; weights stay fp32).

    Raises:
        UserError: fp16 without a GPU.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise UserError("precision: got 'fp16', which needs a GPU, and torch finds none here; use bf16 or fp32")
    for name in SET_BY_LAUNCHERS:
        os.environ.pop(name, None)
    # some networks have parameters that get no gradient; buffers are averaged after each step, see `average_buffers`
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    launched = "LOCAL_RANK" in os.environ  # without GPUs, Accelerator joins processes only with `cpu`
    return Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        cpu=launched and not torch.cuda.is_available(),
        kwargs_handlers=[parallel],
    )


def part_of_batch(batch_size: int, *, accumulate: int, processes: int) -> int:
    """Images per process and part of a batch.

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
    """Prepare batch norm for a batch that is divided into parts.

    Args:
        images: images per process and part of a batch.
        sync_batch_norm: whether statistics are over the images of all processes.

    Raises:
        UserError: SyncBN on CPUs, or batch norm over a single image.
    """
    task.train()
    normalises = any(isinstance(module, _BatchNorm) and module.training for module in task.network.modules())
    synchronised = sync_batch_norm and processes > 1
    if synchronised and not torch.cuda.is_available():
        raise UserError(
            "sync_batch_norm: true needs GPUs, and training runs in several processes on CPUs: set it false"
        )
    if normalises and images == 1 and not synchronised:
        raise UserError(
            "each process takes 1 image at a time, and batch norm needs at least 2: raise batch_size, lower "
            "accumulate or the number of processes" + (", or set sync_batch_norm: true" if processes > 1 else "")
        )
    if synchronised:
        convert_sync_batchnorm(task)


def average_buffers(accelerator: Accelerator, network: SegNetwork) -> None:
    """Give a network the same batch-norm statistics in every process: the mean over all.

    All processes then validate, average, save and restore the same network. A loss's buffers are not changed: its
    queues hold the rows of all processes anyway.
    """
    if accelerator.num_processes == 1:
        return
    modules = [module for module in network.modules() if module.training]
    statistics = [b for module in modules for b in module.buffers(recurse=False) if b.is_floating_point()]
    if not statistics:
        return
    flat = accelerator.reduce(torch.cat([buffer.flatten() for buffer in statistics]), reduction="mean")
    for buffer, mean in zip(statistics, flat.split([buffer.numel() for buffer in statistics]), strict=True):
        buffer.copy_(mean.view_as(buffer))


class Launcher:
    """Detects that the launcher of several processes has ended: nothing else would end the processes."""

    def __init__(self, processes: int) -> None:
        self._parent = os.getppid() if processes > 1 else None

    def check(self) -> None:
        """Raises UserError when the process that started this one has ended."""
        if self._parent is not None and os.getppid() != self._parent:
            raise UserError("the launcher of these processes has ended; training stops here and resumes when run again")


def total(accelerator: Accelerator, value: Tensor) -> Tensor:
    """Sum of a tensor over all processes."""
    summed: Tensor = accelerator.reduce(value, reduction="sum") if accelerator.num_processes > 1 else value
    return summed
