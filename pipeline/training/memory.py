"""How much memory a training run will take, estimated before its first step, and whether as much is free.

One step, forward and backward, is traced on tensors that have shapes and no data (torch's FakeTensorMode), at the full
size of the batch; every storage that an operator allocates is counted until it is freed. Integers and masks are
computed, because losses choose pixels by them. The trace runs a copy of the task: neither its weights, queues and
statistics nor the random numbers change.

A computation in blocks (:mod:`pipeline.losses._blocks`) is traced for one block, of the size for the device that will
run. For CUDA the trace follows the rules of :mod:`pipeline.training.on_cuda`.

What it cannot see: work space inside kernels (cuDNN, oneDNN), gaps between the blocks of an allocator, buffers of CUDA
graphs and compiled networks, and the context of a CUDA process (300 to 800 MiB).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.errors import UserError
from pipeline.losses._blocks import first_block_only
from pipeline.losses._distributed import alone
from pipeline.losses._queues import ClassQueues
from pipeline.settings.param_types import Optimizer
from pipeline.training.distillation import DistillationTask
from pipeline.training.frame_outputs import shapes
from pipeline.training.free_memory import free_memory
from pipeline.training.ledger import Ledger
from pipeline.training.on_cuda import CudaRules, cublas_workspace, padding
from pipeline.training.tasks import SupervisedTask

MIB = 2**20
CPU = torch.device("cpu")
#: Copies of every trainable parameter that an optimiser keeps: momentum; first and second moment.
STATES = {"sgd": 1, "adamw": 2}
#: Parts that are allocated before the first step.
HELD = ("network", "teacher", "labelling network", "loss", "best weights", "EMA copy")
PRECISIONS = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
#: On a CPU the process grows by more than its tensors: code pages, oneDNN's work space, gaps that malloc leaves. Fitted
#: to eight runs (docs/results/training_speed.md).
CPU_FIXED, CPU_SHARE = 40 * MIB, 0.15
#: A warning is printed above this share of the free memory: estimates were within a fifth of the measured peaks.
SAFE = 0.8
#: How allocation failures of a CPU begin; CUDA's have a class.
FAILURES = ("not enough memory", "can't allocate memory", "std::bad_alloc")


@dataclass(frozen=True)
class Estimate:
    """Peak of memory in bytes: ``parts`` at that moment, the largest first, and their sum.

    Attributes:
        parts: ``network``, ``teacher``, ``labelling network`` (an earlier student that labels frames without labels),
            ``loss`` (its adapters and queues), ``best weights``, ``EMA copy``, ``optimiser state``; then what lives in
            the step: ``batch``, ``network activations``, ``teacher activations``, ``loss activations``,
            ``cross-entropy``, ``backward``, ``gradients``; on a CPU ``kernels, allocator``, on CUDA ``allocator
            rounding`` and ``cuBLAS work space``.
        shape: (N, H, W) of the batch.
        precision: fp32, fp16 or bf16.
        strict: the run is on CUDA with deterministic algorithms, whose upsampling takes more.
    """

    parts: dict[str, int]
    shape: tuple[int, int, int]
    precision: str
    strict: bool = False

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def growth(self) -> int:
        """Without the parts that are allocated before the first step: what ``costs.Meter`` measures on a CPU."""
        return sum(size for part, size in self.parts.items() if part not in HELD)

    def measured(self, device: torch.device) -> int:
        """What ``costs.Meter`` measures: on CUDA all that torch holds, on a CPU the growth since the first step."""
        return self.total if device.type == "cuda" else self.growth

    def __str__(self) -> str:
        images, height, width = self.shape
        lines = [f"memory of training, {images} crops of {height}x{width}, {self.precision}, in MiB:"]
        lines += [f"  {part:<20}{size / MIB:>9.1f}" for part, size in self.parts.items()]
        return "\n".join([*lines, f"  {'total':<20}{self.total / MIB:>9.1f}"])


def estimate(
    task: SupervisedTask,
    *,
    shape: tuple[int, int, int],
    optimizer: Optimizer,
    precision: str = "fp32",
    ema: bool = False,
    accumulate: int = 1,
    processes: int = 1,
    device: torch.device = CPU,
) -> Estimate:
    """Peak memory of training a task.

    Args:
        shape: (N, H, W) of the crops that one process holds at once.
        precision: fp32, fp16 or bf16 (autocast; weights stay fp32).
        ema: whether a moving average of the network is kept.
        accumulate: batches whose gradients are added before an update.
        processes: how many train together; several also keep gradients in buckets, to exchange them.
        device: where the training will run; the trace itself runs anywhere.

    Raises:
        UserError: the task cannot be traced in time (``ledger.LIMIT``), or at all, e.g. because a loss of your own asks
            for values of activations. A training can run without the estimate.
    """
    strict = device.type == "cuda" and torch.are_deterministic_algorithms_enabled()
    try:
        step, trained = _trace(
            task, shape, dtype=PRECISIONS[precision], accumulate=accumulate, device=device, strict=strict
        )
    except Exception as error:  # a loss of your own may do anything with tensors that have no data
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise UserError(f"the memory of this training cannot be estimated: {reason}") from error
    network = _bytes(task.network)
    held = {
        "network": network,
        "best weights": network,
        "EMA copy": network if ema else 0,
        "optimiser state": STATES[optimizer] * sum(trained),
        "exchange": sum(trained) if processes > 1 else 0,
    }
    if isinstance(task, DistillationTask):
        held["loss"] = _bytes(task.loss)
        held["teacher"] = _bytes(task.teacher) if task.teacher_runs else 0
        held["labelling network"] = sum(_bytes(network) for network in task.networks()[2:])
    if not trained:
        raise UserError("the memory of this training cannot be estimated: no parameter got a gradient")
    # temporaries of the update: one of each tensor where all are updated at once (CUDA), else of the largest
    update = sum(trained) if device.type == "cuda" else 2 * max(trained)
    if sum(step.values()) < sum(trained) + update:
        step = {"gradients": sum(trained), "update": update}
    around = CPU_FIXED + int(CPU_SHARE * sum(step.values())) if device.type == "cpu" else 0
    parts = {part: size for part, size in {**held, **step, "kernels, allocator": around}.items() if size}
    ordered = dict(sorted(parts.items(), key=lambda item: -item[1]))
    return Estimate(parts=ordered, shape=shape, precision=precision, strict=strict)


def advise(planned: Estimate, device: torch.device) -> str:
    """A text with the estimate and the free memory, and with options to lower when it does not fit.

    Call it before networks are moved. On a CPU, memory that is allocated already is not counted again.
    """
    free = free_memory(device)
    if free is None:
        return f"{planned}\nthe free memory is not known here"
    beyond = "; not counted: work space of cuDNN" if device.type == "cuda" else ""
    if beyond and torch.backends.cudnn.benchmark:
        beyond += ", which tries kernels in the first steps and takes more for them where more is free"
    text = f"{planned}\nfree on {device}: {free / MIB:.0f} MiB{beyond}"
    later = sum(planned.parts.get(part, 0) for part in ("best weights", "EMA copy"))
    needed = planned.total if device.type == "cuda" else planned.growth + later  # networks are still on the CPU here
    if needed <= SAFE * free:
        return text
    verdict = "will not fit" if needed > free else "may not fit: estimates are within a fifth"
    return f"{text}\n{needed / MIB:.0f} MiB more are needed; this {verdict}; {_lower(planned)}"


def _lower(planned: Estimate) -> str:
    images, height, width = planned.shape
    ways = [f"crop (now {height}x{width})"]
    if images > 2:  # batch statistics need two
        ways.insert(0, f"batch_size (now {images}; accumulate keeps the sum over as many)")
    if planned.precision == "fp32":
        ways.append("precision (bf16)")
    if planned.strict:
        ways.append("determinism (off; deterministic upsampling takes up to seven times its result)")
    return f"lower {', '.join(ways)}"


@contextmanager
def explained(planned: Estimate | None, device: torch.device) -> Iterator[None]:
    """Around the steps of a training run: running out of memory becomes one error that contains the estimate.

    Raises:
        UserError: torch could not allocate, on CUDA or on a CPU.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        text = str(error)
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not any(f in text for f in FAILURES):
            raise
        reason = text.strip().split("\n", maxsplit=1)[0] or type(error).__name__
        about = "lower batch_size, crop or precision" if planned is None else f"{_lower(planned)}\n{planned}"
        raise UserError(f"{device} ran out of memory: {reason}\n{about}") from error


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _trace(
    task: SupervisedTask,
    shape: tuple[int, int, int],
    *,
    dtype: torch.dtype | None,
    accumulate: int,
    device: torch.device,
    strict: bool,
) -> tuple[dict[str, int], list[int]]:
    """Bytes by part at the peak of a step, without earlier allocations, and of each parameter that got a gradient."""
    cuda = device.type == "cuda"
    ledger = Ledger(padding if cuda else None)
    rules: CudaRules | nullcontext[None] = CudaRules(strict=strict) if cuda else nullcontext()
    shadow = _shadow(task, ledger.fake)
    shadow.train()
    images, height, width = shape
    classes = next(m for m in reversed(list(task.network.modules())) if isinstance(m, nn.Conv2d)).out_channels
    kept = shapes(task, shape, classes=classes) if isinstance(task, DistillationTask) else []
    autocast = torch.autocast("cpu", dtype or torch.bfloat16, enabled=bool(dtype))
    with alone(), first_block_only(device), torch.random.fork_rng(devices=[]), ledger, autocast, rules:
        for _ in range(min(accumulate, 2)):  # from the second batch on the gradients are allocated all the time
            with ledger.part("batch"):
                batch = ledger.make(torch.empty, (images, 3, height, width), dtype=torch.uint8)
                target = _target(shape, classes=classes)
                outputs = [ledger.make(torch.empty, each, dtype=torch.float16) for each in kept]
            with _attributed(shadow, ledger), ledger.part("cross-entropy"):
                loss = shadow(batch, target, **({"outputs": outputs} if outputs else {}))["loss"]
            with ledger.part("backward"):
                loss.backward()
            del loss, batch, target, outputs
    step = dict(ledger.peak)
    if cuda:  # one for the thread of the forward pass, one for that of the backward pass
        threads = {part == "backward" for part in ledger.products}
        step["cuBLAS work space"] = len(threads) * cublas_workspace(device)
    return step, [p.nbytes for p in shadow.parameters() if p.grad is not None]


def _target(shape: tuple[int, int, int], *, classes: int) -> Tensor:
    """Labels (N, H, W) uint8 with every class in every image: the most work for queues and class means."""
    images, height, width = shape
    columns = torch.arange(width) * classes // width
    return columns.to(torch.uint8).expand(images, height, width).clone()


def _shadow(task: SupervisedTask, fake: FakeTensorMode) -> SupervisedTask:
    """A copy whose floating-point tensors hold no data, and whose queues are full, as they are late in a run."""
    modules: list[nn.Module] = [task]
    if isinstance(task, DistillationTask):
        modules.append(task.teacher)
    memo: dict[int, Any] = {}
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                memo[id(tensor)] = _hollow(tensor, fake)
    shadow = copy.deepcopy(task, memo)
    for part in shadow.modules():
        if isinstance(part, ClassQueues):
            part.filled.fill_(part.length)
    return shadow


def _hollow(tensor: Tensor, fake: FakeTensorMode) -> Tensor:
    with fake:
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


@contextmanager
def _attributed(task: SupervisedTask, ledger: Ledger) -> Iterator[None]:
    """Register hooks through which the ledger knows whose forward runs and which storages are gradients."""
    owners: dict[str, nn.Module] = {"network activations": task.network}
    if isinstance(task, DistillationTask):
        owners |= {"teacher activations": task.teacher, "loss activations": task.loss}
    handles: list[Any] = []
    for name, module in owners.items():

        def enter(*_: Any, name: str = name) -> None:
            ledger.enter(name)

        def leave(*_: Any) -> None:
            ledger.leave()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    for parameter in task.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                lambda p: ledger.rename(p.grad, "gradients")
            )
    yield
    for handle in handles:
        handle.remove()
