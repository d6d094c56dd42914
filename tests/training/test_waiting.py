"""On a GPU, the host never waits for the device in an update."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.training.data import class_weights
from pipeline.training.distillation import DistillationTask
from pipeline.training.learner import Learner
from pipeline.training.processes import accelerator
from pipeline.training.seeding import choose_kernels
from pipeline.training.tasks import sum_of_weights

CARD = torch.device("cuda:0")


def hollow(task: Any, fake: FakeTensorMode) -> Any:
    """A copy whose tensors claim to be on a GPU and have no data: it runs on any machine, and to read a value fails."""
    memo: dict[int, Any] = {}
    modules: list[nn.Module] = [task, *task.networks()]
    for tensor in [t for module in modules for t in (*module.parameters(), *module.buffers())]:
        with fake:
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CARD)
        memo[id(tensor)] = (
            nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        )
    return copy.deepcopy(task, memo)


class Card(SimpleNamespace):
    """What an accelerator does with one GPU in fp32, without one."""

    device, num_processes, process_index, scaler = CARD, 1, 0, None

    def prepare(self, *objects: Any) -> tuple[Any, ...]:
        return objects

    def autocast(self) -> Any:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def unscale_gradients(self) -> None:
        pass


@pytest.mark.parametrize("task", ["supervised", "weighted", "none", "kd"])
def test_an_update_reads_no_value_of_the_device(bench: Any, task: str) -> None:
    """Traced on tensors without data, where a read, or a shape that hangs on values, is an error."""
    fake = FakeTensorMode()
    real = bench.supervised() if task in ("supervised", "weighted") else bench.distillation(task)
    real.class_weights = class_weights(bench.prepared, balance=0.5) if task == "weighted" else None
    learned = hollow(real, fake)
    with fake:
        settings = replace(bench.SETTINGS, ema=0.9)
        learner = Learner(learned, settings, accelerator=Card(), images=2)  # type: ignore[arg-type]
        assert all(group["fused"] for group in learner.optimizer.param_groups)
        batch = (torch.empty(2, 3, 64, 96, dtype=torch.uint8), torch.empty(2, 64, 96, dtype=torch.uint8))
        for step in (1, 2):
            learner.update([batch], step=step, names=["a", "b"])
        with pytest.raises(Exception, match=r"(?i)data|fake|item"):
            learner.read()[0].terms["loss"].hex()


def test_weights_of_pixels_without_a_wait_are_the_same_sum(bench: Any) -> None:
    """The sum on a GPU, computed here, against the one on a CPU."""
    task = bench.supervised()
    task.class_weights = torch.rand(11)
    target = torch.randint(0, 11, (2, 64, 96), dtype=torch.uint8)
    target[:, :20] = 255
    everywhere = sum_of_weights(task.class_weights.double(), target, target != 255)
    assert float(everywhere) == pytest.approx(float(task.weight(target)), rel=1e-12)
    task.class_weights = None
    assert task.weight(target).dtype == torch.float64 and float(task.weight(target)) == int((target != 255).sum())


gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs an NVIDIA GPU and its driver; this machine has none"
)


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def learner_on_a_card(bench: Any, loss: str, **changes: Any) -> Learner:
    settings = replace(bench.SETTINGS, steps=1000, channels_last=True, **changes)
    task = bench.supervised() if loss == "supervised" else bench.distillation(loss)
    task.class_weights = class_weights(bench.prepared, balance=0.5)
    on = accelerator(precision=settings.precision)
    choose_kernels(settings.determinism, device=on.device)
    return Learner(task, settings, accelerator=on, images=4)


def batch_on_a_card() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8, generator=generator)
    target = torch.randint(0, 11, (4, 64, 96), dtype=torch.uint8, generator=generator)
    return images.cuda().to(memory_format=torch.channels_last), target.cuda()


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("loss", ["supervised", "kd", "fitnet", "cwd"])
@pytest.mark.parametrize(
    "changes",
    [
        {}, {"precision": "bf16", "ema": 0.9}, {"precision": "fp16", "clip_norm": 1.0},
        {"precision": "fp16", "optimizer": "sgd"}, {"accumulate": 2, "determinism": "strict"},
    ],
)  # fmt: skip
def test_cuda_sees_no_wait_in_an_update(
    bench: Any, fresh_accelerator: None, loss: str, changes: dict[str, Any]
) -> None:
    """torch's own check: an operation for which the host waits raises."""
    learner, batch = learner_on_a_card(bench, loss, **changes), batch_on_a_card()
    parts = changes.get("accumulate", 1) * [batch]
    for step in (1, 2, 3):  # kernels and the teacher are loaded
        learner.update(parts, step=step, names=["a"])
    learner.read()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in (4, 5, 6):
            learner.update(parts, step=step, names=["a"])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [reading.step for reading in learner.read()] == [4, 5, 6]


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_update_that_overflows_in_fp16_changes_nothing(bench: Any, fresh_accelerator: None, optimizer: str) -> None:
    """In the very first step too, where a fused SGD of torch leaves its momentum without a value."""
    learner, batch = learner_on_a_card(bench, "supervised", precision="fp16", optimizer=optimizer), batch_on_a_card()
    scale = 2.0**100  # gradients overflow for certain
    learner.accelerator.scaler._init_scale = scale
    before = {name: value.clone() for name, value in learner.task.named_parameters()}
    learner.update([batch], step=1, names=["a"])
    learner.read()
    assert all(torch.equal(value, before[name]) for name, value in learner.task.named_parameters())
    moments = [
        value for state in learner.optimizer.state.values() for key, value in state.items()
        if key in ("momentum_buffer", "exp_avg", "exp_avg_sq", "step")
    ]  # fmt: skip
    assert moments and all(not bool(value.any()) for value in moments)
    assert float(learner.accelerator.scaler.get_scale()) == scale / 2


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_state_moves_between_a_gpu_and_a_cpu(bench: Any, fresh_accelerator: None, optimizer: str) -> None:
    """Contiguous tensors of a checkpoint get the strides that fused kernels need."""
    first, batch = learner_on_a_card(bench, "supervised", optimizer=optimizer), batch_on_a_card()
    first.update([batch], step=1, names=["a"])
    first.read()
    state = _on_cpu(copy.deepcopy(first.state()))
    second = learner_on_a_card(bench, "supervised", optimizer=optimizer)
    second.restore(state)
    for learner in (first, second):
        learner.update([batch], step=2, names=["a"])
    losses = [learner.read()[-1].terms["loss"] for learner in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def _on_cpu(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.cpu().contiguous()
    if isinstance(tree, dict):
        return {key: _on_cpu(value) for key, value in tree.items()}
    return [_on_cpu(value) for value in tree] if isinstance(tree, list) else tree


def test_hollow_tasks_keep_their_teacher_apart(bench: Any) -> None:
    """The copy above is of both networks, or its teacher would compute with data on the CPU."""
    task = hollow(bench.distillation("kd"), FakeTensorMode())
    assert isinstance(task, DistillationTask) and {p.device for p in task.teacher.parameters()} == {CARD}
