"""The estimate against counts by hand and the measured memory; the task does not change; errors say what to lower."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import losses, models
from pipeline.errors import UserError
from pipeline.losses import _gpu_blocks, _similarity
from pipeline.models import NetworkFacts, SegNetwork, SegOutput
from pipeline.training import ledger, memory
from pipeline.training.distillation import DistillationTask
from pipeline.training.tasks import SupervisedTask

MIB = 2**20
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
#: Of a slow CPU against the seconds that an estimate may take.
SLOW = 3
#: (N, H, W) of the batch whose trace took minutes.
SHAPE = (16, 368, 480)


@pytest.fixture(autouse=True)
def loose() -> Iterator[None]:
    """The fastest kernels, whatever a run earlier in this process chose."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(before, warn_only=True)


@pytest.fixture
def strict(loose: None) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)


class Plain(SegNetwork):
    """Two 1 x 1 convolutions with a sigmoid between them, which keeps its result: all bytes can be counted by hand."""

    facts = NetworkFacts(channels=8, stage_channels=(8,), output_stride=1, divisor=1)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> SegOutput:
        embedding = self.first(x).sigmoid()
        return SegOutput(logits=self.last(embedding), embedding=embedding)


def test_parts_against_hand_counts() -> None:
    task = SupervisedTask(Plain(), ignore_index=255)
    estimate = memory.estimate(task, shape=(2, 64, 96), optimizer="adamw", ema=True, device=CUDA)
    weights = 4 * (3 * 8 + 8 + 8 * 5 + 5)
    pixels = 2 * 64 * 96
    assert estimate.parts["network"] == estimate.parts["best weights"] == estimate.parts["EMA copy"] == weights
    assert estimate.parts["optimiser state"] == 2 * weights
    assert estimate.parts["batch"] == 4 * pixels  # three bytes of image, one of label
    # float image 3, sigmoid 8, logits 5, log-softmax 5 are kept, each 4 bytes, and int64 labels; in the backward pass
    # the gradients of logits, embedding and sigmoid are added, when log-softmax and logits may have been freed
    kept = pixels * (4 * (3 + 8 + 5 + 5) + 8)
    step = sum(size for part, size in estimate.parts.items() if part not in memory.HELD) - 2 * weights - 4 * pixels
    assert kept <= step <= kept + pixels * 4 * (5 + 8 + 8)
    assert estimate.total == sum(estimate.parts.values())
    on_cpu = memory.estimate(task, shape=(2, 64, 96), optimizer="adamw", ema=True)
    assert on_cpu.parts["kernels, allocator"] >= memory.CPU_FIXED and on_cpu.total > estimate.total


def test_activations_grow_with_the_batch_and_weights_do_not() -> None:
    task = SupervisedTask(
        models.build("smp", {"architecture": "fpn", "encoder": "resnet18"}, num_classes=5), ignore_index=255
    )
    options: dict[str, Any] = {"optimizer": "sgd", "device": CUDA}
    one, two = (memory.estimate(task, shape=(n, 192, 192), **options) for n in (4, 8))
    assert two.parts["network activations"] == pytest.approx(2 * one.parts["network activations"], rel=0.02)
    assert (
        two.parts["network"]
        == one.parts["network"]
        == sum(t.nbytes for t in (*task.network.parameters(), *task.network.buffers()))
    )
    # on a CPU: CUDA's autocast computes the group norms and the upsampling of this network in float32
    half = memory.estimate(task, shape=(8, 192, 192), precision="bf16", optimizer="sgd")
    assert half.parts["network activations"] < 0.75 * two.parts["network activations"]
    summed = memory.estimate(task, shape=(8, 192, 192), accumulate=4, **options)
    assert summed.parts["gradients"] == sum(p.nbytes for p in task.parameters())


def distillation(names: list[str]) -> DistillationTask:
    torch.manual_seed(0)
    student, teacher = (
        models.build("smp", {"architecture": "fpn", "encoder": encoder}, num_classes=11)
        for encoder in ("tu-tf_mobilenetv3_small_minimal_100", "resnet18")
    )
    facts = {**student.facts.offered("student"), **teacher.facts.offered("teacher")}
    options = {name: {"pool": 1, "patch": 2} if name == "af_dcd" else {} for name in names}
    loss = losses.build_all(options, num_classes=11, ignore_index=255, steps=4, **facts)
    return DistillationTask(student, teacher, loss, ignore_index=255)


@pytest.mark.parametrize("name", losses.available())
def test_every_loss_is_traced_and_nothing_changes(name: str) -> None:
    task = distillation([name])
    before = copy.deepcopy([task.state_dict(), task.teacher.state_dict()])
    random = torch.random.get_rng_state()
    estimate = memory.estimate(task, shape=(2, 64, 96), optimizer="adamw")
    assert torch.equal(random, torch.random.get_rng_state())
    for state, old in zip([task.state_dict(), task.teacher.state_dict()], before, strict=True):
        assert all(torch.equal(value, old[key]) for key, value in state.items())
    assert all(p.grad is None for p in task.parameters()) and not task.network._forward_hooks
    assert ("teacher" in estimate.parts) == task.loss.uses_teacher
    assert estimate.parts.get("loss", 0) == sum(t.nbytes for t in (*task.loss.parameters(), *task.loss.buffers()))


MEASURED = """
import sys
import torch
from pipeline import losses, models
from pipeline.training import memory
from pipeline.training.costs import Meter
from tests.training.test_memory import distillation
from pipeline.training.tasks import SupervisedTask
shape = (4, 192, 256)
if sys.argv[1] == "none":
    network = models.build("smp", {"architecture": "unet", "encoder": "resnet18"}, num_classes=11)
    task = SupervisedTask(network, ignore_index=255)
else:
    task = distillation(sys.argv[1].split("+"))
estimate = memory.estimate(task, shape=shape, optimizer="adamw")
optimiser, meter = torch.optim.AdamW(task.train().parameters(), lr=1e-3), Meter(torch.device("cpu"))
for _ in range(2):
    images = torch.randint(0, 256, (shape[0], 3, *shape[1:]), dtype=torch.uint8)
    task(images, torch.randint(0, 11, shape, dtype=torch.uint8))["loss"].backward()
    optimiser.step()
    optimiser.zero_grad()
print(estimate.growth / 2**20, meter.read().peak_memory_mib)
"""


@pytest.mark.parametrize("task", [pytest.param("none", marks=pytest.mark.slow), "kd+fitnet"])
def test_the_estimate_is_near_the_measured_peak(task: str) -> None:
    """In a new process: a process keeps the memory that it took before."""
    root = Path(__file__).parents[2]
    process = subprocess.run(
        [sys.executable, "-c", MEASURED, task],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected, measured = map(float, process.stdout.split())
    assert 0.7 * measured < expected < 1.35 * measured, (expected, measured)


@pytest.fixture(scope="module")
def stride_4() -> tuple[SegNetwork, SegNetwork]:
    """A student and a teacher with embeddings of stride 4."""
    encoders = ("tu-tf_mobilenetv3_small_minimal_100", "resnet18")
    student, teacher = (
        models.build("smp", {"architecture": "deeplabv3plus", "encoder": encoder}, num_classes=11)
        for encoder in encoders
    )
    return student, teacher


def relating(networks: tuple[SegNetwork, SegNetwork], name: str, **options: Any) -> DistillationTask:
    student, teacher = networks
    facts = {**student.facts.offered("student"), **teacher.facts.offered("teacher")}
    loss = losses.build(name, options, num_classes=11, ignore_index=255, steps=4, **facts)
    return DistillationTask(student, teacher, loss, ignore_index=255)


@pytest.mark.parametrize("name", losses.available())
def test_every_loss_is_traced_in_time(
    name: str, stride_4: tuple[SegNetwork, SegNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    """cirkd took more than 60 s at this size."""
    monkeypatch.setattr(ledger, "LIMIT", SLOW * ledger.LIMIT)
    planned = memory.estimate(relating(stride_4, name), shape=SHAPE, optimizer="adamw")
    assert planned.parts["network activations"] > 100 * MIB


@pytest.mark.parametrize(("name", "options"), [("cirkd", {"relation_group": 16}), ("pfs", {"pool": 1})])
def test_the_number_of_traced_operators_is_the_same_for_every_size(
    name: str, options: dict[str, Any], stride_4: tuple[SegNetwork, SegNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(ledger.Ledger):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            counts[-1] += 1
            return super().__torch_dispatch__(func, types, args, kwargs)

    monkeypatch.setattr(memory, "Ledger", Counting)
    monkeypatch.setattr(ledger, "LIMIT", SLOW * ledger.LIMIT)
    counts = []
    for shape in ((16, 192, 256), SHAPE):  # several blocks each
        counts.append(0)
        memory.estimate(relating(stride_4, name, **options), shape=shape, optimizer="sgd")
    assert counts[0] == counts[1] > 100


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cirkd", {"relation_group": 4, "pixel_weight": 0.0, "region_weight": 0.0, "pool": 1}),
        ("cirkd", {"batch_weight": 0.0}),
        ("cirkd", {"batch_weight": 0.0, "temperature": 0.01}),
        ("pfs", {"pool": 1}),
        ("pfs", {"pool": 1, "temperature": 0.01}),
    ],
)
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_one_block_takes_as_much_as_all(
    device: torch.device,
    name: str,
    options: dict[str, Any],
    stride_4: tuple[SegNetwork, SegNetwork],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks of at least ten times the budget's rows, so that they decide the peak."""
    task, parts = relating(stride_4, name, **options), []
    monkeypatch.setattr(_similarity, "BUDGET", {"cpu": 16 * MIB, "cuda": 16 * MIB})
    monkeypatch.setattr(ledger, "LIMIT", 60.0)
    for all_blocks in (False, True):
        if all_blocks:
            for module in (_similarity, _gpu_blocks):
                monkeypatch.setattr(module, "to_compute", lambda blocks: blocks)
        parts.append(memory.estimate(task, shape=(4, 192, 256), optimizer="sgd", device=device).parts)
    # further blocks add their part of the value: a scalar more at the peak
    assert parts[0] == pytest.approx(parts[1], rel=0, abs=1024) and sum(parts[0].values()) > 10 * MIB
    monkeypatch.setattr(_similarity, "BUDGET", {"cpu": 160 * MIB, "cuda": 160 * MIB})
    larger = memory.estimate(task, shape=(4, 192, 256), optimizer="sgd", device=device).parts
    assert larger["loss activations"] > parts[0]["loss activations"] + 50 * MIB


def test_blocks_have_the_size_for_the_device_that_will_run(stride_4: tuple[SegNetwork, SegNetwork]) -> None:
    task = relating(stride_4, "pfs", imitation_weight=0.0, pool=1)
    on_cpu, on_cuda = (
        memory.estimate(task, shape=(2, 368, 480), optimizer="sgd", device=device).parts for device in (CPU, CUDA)
    )
    larger = _similarity.BUDGET["cuda"] - _similarity.BUDGET["cpu"]
    assert on_cuda["loss activations"] - on_cpu["loss activations"] == pytest.approx(larger, rel=0.1)


@pytest.mark.usefixtures("strict")
def test_deterministic_upsampling_on_cuda_is_counted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four gathered maps, two or more in between, instead of the result alone."""
    task, shape = SupervisedTask(Plain(), ignore_index=255), (2, 64, 96)
    planned = memory.estimate(task, shape=shape, optimizer="sgd", device=CUDA)
    torch.use_deterministic_algorithms(False)
    loose = memory.estimate(task, shape=shape, optimizer="sgd", device=CUDA)
    upsampled = 4 * 5 * 2 * 64 * 96
    assert 3 * upsampled < planned.total - loose.total < 8 * upsampled
    monkeypatch.setattr(memory, "free_memory", lambda device: 0)
    assert "determinism (off" in memory.advise(planned, CUDA) and "determinism" not in memory.advise(loose, CUDA)
    assert "not counted: work space of cuDNN" in memory.advise(loose, CUDA)


@pytest.mark.usefixtures("strict")
def test_the_estimate_is_near_what_an_h200_measured() -> None:
    """One training: torch 2.11, bf16, channels_last, deterministic algorithms, AdamW, an average of the weights."""
    options = {
        "architecture": "deeplabv3plus", "encoder": "tu-tf_efficientnet_lite2", "options": {"decoder_channels": 256}
    }  # fmt: skip
    task = SupervisedTask(models.build("smp", options, num_classes=11), ignore_index=255)
    task.class_weights = torch.ones(11)
    planned = memory.estimate(task, shape=SHAPE, optimizer="adamw", precision="bf16", ema=True, device=CUDA)
    assert planned.total / MIB == pytest.approx(5158, rel=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and its driver; this machine has none")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["kd", "cirkd"])
def test_the_estimate_is_near_the_measured_peak_on_a_gpu(
    name: str, precision: str, stride_4: tuple[SegNetwork, SegNetwork]
) -> None:
    task = relating(copy.deepcopy(stride_4), name)
    planned = memory.estimate(task, shape=SHAPE, optimizer="adamw", precision=precision, device=CUDA)
    task.to(CUDA).train()
    kept, optimiser = copy.deepcopy(task.network), torch.optim.AdamW(task.parameters(), lr=1e-3)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        images = torch.randint(0, 256, (SHAPE[0], 3, *SHAPE[1:]), dtype=torch.uint8, device=CUDA)
        target = torch.randint(0, 11, SHAPE, dtype=torch.uint8, device=CUDA)
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            loss = task(images, target)["loss"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        del images, target, loss
    assert planned.total == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.15)
    del kept


def test_advice_names_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    estimate = memory.Estimate(
        parts={"network activations": 800 * MIB, "network": 100 * MIB, "best weights": 100 * MIB},
        shape=(8, 512, 1024),
        precision="fp32",
    )
    cpu = torch.device("cpu")
    for free, expected in ((2000, None), (1000, "may not fit"), (500, "will not fit")):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free * MIB)
        text = memory.advise(estimate, cpu)
        assert "8 crops of 512x1024" in text and f"free on cpu: {free} MiB" in text and "1000.0" in text
        assert ("900 MiB more are needed" in text) == (expected is not None)
        assert expected is None or expected in text
        assert ("batch_size (now 8" in text and "precision (bf16)" in text) == (expected is not None)
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    assert "not known" in memory.advise(estimate, cpu)


def test_running_out_of_memory_is_one_error_and_others_pass() -> None:
    cpu = torch.device("cpu")
    estimate = memory.Estimate(parts={"network": MIB}, shape=(4, 64, 64), precision="bf16")
    pattern = r"cpu ran out of memory: (?s:.*)batch_size \(now 4(?s:.*)crops of 64x64"
    with pytest.raises(UserError, match=pattern) as caught, memory.explained(estimate, cpu):
        torch.empty(2**60, dtype=torch.uint8)  # the allocator's own error
    assert "precision" not in str(caught.value).split("\n")[1]
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()):
        with pytest.raises(UserError, match="lower batch_size, crop or precision"), memory.explained(None, CUDA):
            raise error
    with pytest.raises(RuntimeError, match="shapes differ") as other, memory.explained(estimate, cpu):
        raise RuntimeError("shapes differ")
    assert not isinstance(other.value, UserError)


def test_a_training_starts_without_an_estimate_that_takes_too_long(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledger, "LIMIT", -1.0)
    bench.train(bench.supervised(), tmp_path, steps=1, estimated=True)
    (line,) = [record.getMessage() for record in caplog.records if "estimate" in record.getMessage()]
    assert "takes more than" in line and line.endswith("the training starts without an estimate")
    assert "\n" not in line


def test_a_loss_that_cannot_be_traced_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "LIMIT", -1.0)
    with pytest.raises(UserError, match="cannot be estimated: tracing a step takes more than"):
        memory.estimate(SupervisedTask(Plain(), ignore_index=255), shape=(2, 8, 8), optimizer="sgd")
    monkeypatch.undo()

    class Peeking(SupervisedTask):
        def forward(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
            terms = super().forward(x, target)
            return terms if float(terms["loss"].detach()) > 0 else {}

    with pytest.raises(UserError, match="cannot be estimated"):
        memory.estimate(Peeking(Plain(), ignore_index=255), shape=(2, 8, 8), optimizer="sgd")
