"""The blocks of GPUs on a CPU: their one function, plain and compiled, their products, how many operators they take."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.losses import _gpu_blocks, _similarity
from pipeline.losses._gpu_blocks import HIDDEN, checked, divergence
from pipeline.losses._numerics import unit
from pipeline.losses._similarity import reference_kl, relation_kl


@pytest.fixture
def of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses take the blocks of a GPU."""
    monkeypatch.setattr(_similarity, "device_of", lambda _: torch.device("cuda"))


def block(rows: int, columns: int, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Similarities of student and teacher, some of them hidden, and weights, some of them 0."""
    generator = torch.Generator().manual_seed(0)
    s, t = (10 * torch.rand(rows, columns, generator=generator, dtype=dtype) for _ in range(2))
    hidden = torch.rand(columns, generator=generator) < 0.2
    weight = torch.rand(rows, 1, generator=generator, dtype=dtype)
    return s.masked_fill(hidden, HIDDEN), t.masked_fill(hidden, HIDDEN), weight.where(weight > 0.1, 0)


def test_divergence_is_the_sum_and_its_gradient() -> None:
    s, t, weight = block(7, 12)
    before = [x.clone() for x in (s, t, weight)]
    s.requires_grad_()
    p, log_p, log_q = t.softmax(1), t.log_softmax(1), s.log_softmax(1)
    expected = (weight[:, 0] * (p * (log_p - log_q)).sum(1)).sum()
    with torch.no_grad():
        value, gradient = divergence(s, t, weight)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, s)[0], rtol=1e-10, atol=1e-14)
    assert all(torch.equal(x, y) for x, y in zip((s, t, weight), before, strict=True))


def compiled_equals_plain(backend: str) -> None:
    compiled = torch.compile(divergence, dynamic=True, fullgraph=True, backend=backend)
    for rows, columns in ((7, 12), (30, 5), (16, 33)):  # dynamic: one graph for all
        arguments = block(rows, columns, dtype=torch.float32)
        with torch.no_grad():
            assert checked(compiled, *arguments) is compiled
            for result, expected in zip(compiled(*arguments), divergence(*arguments), strict=True):
                torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_the_traced_function_equals_the_plain_one() -> None:
    compiled_equals_plain("aot_eager")


@pytest.mark.slow
def test_the_compiled_function_equals_the_plain_one() -> None:
    compiled_equals_plain("inductor")


def fails(*_: Tensor) -> tuple[Tensor, Tensor]:
    raise RuntimeError("Cannot find a working triton installation\nmore lines")


def changed(by: float) -> Callable[..., tuple[Tensor, Tensor]]:
    def function(s: Tensor, t: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = divergence(s, t, weight)
        gradient[0, 0] += by
        return value, gradient

    return function


@pytest.mark.parametrize(
    ("compiled", "message"),
    [
        (fails, "could not be compiled and will be slower: Cannot find a working triton installation"),
        (changed(0.001), "differ by 0.001 and are not used"),
        (changed(float("nan")), "differ by nan and are not used"),
    ],
)
def test_without_a_correct_compiled_function_the_plain_one_runs(
    compiled: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert checked(compiled, *block(7, 12)) is divergence
    assert message in caplog.text and len(caplog.records) == 1 and "\n" not in caplog.records[0].getMessage()


def test_memory_that_runs_out_while_compiling_is_an_error() -> None:
    def full(*_: Tensor) -> tuple[Tensor, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        checked(full, *block(7, 12))


def test_products_are_in_tensor_float32_only_inside() -> None:
    before = torch.get_float32_matmul_precision()
    assert before == "highest"
    with _gpu_blocks._tensor_float32(True):
        assert torch.get_float32_matmul_precision() == "high"
    with _gpu_blocks._tensor_float32(False):
        assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(ZeroDivisionError), _gpu_blocks._tensor_float32(True):
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == before


def in_ten_bits(x: Tensor) -> Tensor:
    """float32 with the 13 last bits of the mantissa cut off, as TensorFloat-32 products read their inputs."""
    return (x.view(torch.int32) & ~0x1FFF).view(torch.float32)


@pytest.mark.usefixtures("of_a_gpu")
def test_ten_bits_of_mantissa_suffice() -> None:
    """All inputs of products are rounded; TensorFloat-32 is used for these temperatures."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, c, 200, generator=generator).relu() for c in (32, 64))
    for temperature in (1.0, 0.1, 0.05):
        results = []
        for rounding in (torch.Tensor.clone, in_ten_bits):
            s = rounding(unit(student)).requires_grad_()
            value = relation_kl(s, rounding(unit(teacher)), temperature=temperature, group=2)
            results.append((value.detach(), torch.autograd.grad(value, s)[0]))
        (value, gradient), (rounded, rounded_gradient) = results
        assert float(rounded) == pytest.approx(float(value), rel=5e-3)
        assert float((rounded_gradient - gradient).norm()) < 1e-2 * float(gradient.norm())


class Counter(TorchDispatchMode):
    """Counts operators."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def operators(work: Callable[[], Any]) -> int:
    with Counter() as counter:
        work()
    return counter.count


@pytest.mark.usefixtures("of_a_gpu")
def test_a_batch_takes_few_operators_and_never_waits_for_the_device() -> None:
    """16 images of 46 x 60 pixels: the shape of CamVid at stride 8. Tensors without data fail where a value is read."""
    with FakeTensorMode():
        student, teacher = unit(torch.empty(16, 128, 2760)), unit(torch.empty(16, 256, 2760))
        valid = torch.empty(16, 2760, dtype=torch.bool)
        pairs = operators(lambda: relation_kl(student, teacher, temperature=0.1, group=2, valid=valid))
        single = operators(lambda: relation_kl(student, teacher, temperature=0.1))
        anchors, others, references = torch.empty(44160, 256), torch.empty(44160, 256), torch.empty(4115, 256)
        memory = operators(lambda: reference_kl(anchors, others, references, temperature=0.1))
    assert pairs < 700 and single < 350 and memory < 350
