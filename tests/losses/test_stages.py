"""Encoder stages are converted to float32 where a loss reads them, once, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import losses
from pipeline.losses import Composition, _base, _numerics
from pipeline.models import SegOutput

#: Stages of student and teacher that a loss reads, with its default options; the losses that are not here read none.
READ = {"mgd": [1], "af_dcd": [1]}


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the half precision tensors that losses convert, in order."""
    shapes: list[tuple[int, ...]] = []

    def counting(x: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16:
            shapes.append(tuple(x.shape))
        return _numerics.at_least_float32(x)

    monkeypatch.setattr(_base, "at_least_float32", counting)
    return shapes


def in_half(output: SegOutput) -> SegOutput:
    return SegOutput(
        logits=output.logits.bfloat16(),
        embedding=output.embedding.bfloat16(),
        stages=tuple(stage.bfloat16() for stage in output.stages),
    )


def expected(outputs: tuple[SegOutput, ...], stages: list[int]) -> list[tuple[int, ...]]:
    """Logits and embedding of both, and these stages of both."""
    tensors = [x for output in outputs for x in (output.logits, output.embedding)]
    return sorted(tuple(x.shape) for x in (*tensors, *(output.stages[i] for output in outputs for i in stages)))


@pytest.mark.parametrize("name", [name for name in losses.available() if name != "none"])
def test_a_loss_converts_the_stages_that_it_reads(name: str, bench: Any, converted: list[tuple[int, ...]]) -> None:
    outputs = in_half(bench.student()), in_half(bench.teacher())
    bench.build(name).float()(*outputs, bench.labels())
    assert sorted(converted) == expected(outputs, READ.get(name, []))


def test_the_parts_of_a_composition_share_what_they_convert(bench: Any, converted: list[tuple[int, ...]]) -> None:
    outputs = in_half(bench.student()), in_half(bench.teacher())
    parts = {
        "kd": bench.build("kd"),
        "i2ckd": bench.build("i2ckd", layers=["stage1", "stage2"]),
        "mgd": bench.build("mgd"),
    }
    Composition(parts).float()(*outputs, bench.labels())
    assert sorted(converted) == expected(outputs, [0, 1])


class TestMappedStages:
    def mapped(self) -> tuple[SegOutput, list[Tensor]]:
        calls: list[Tensor] = []
        stages = tuple(torch.full((1, 1, 1, 1), float(i), requires_grad=True) for i in range(3))
        output = SegOutput(logits=stages[0], embedding=stages[0], stages=stages)

        def double(x: Tensor) -> Tensor:
            calls.append(x)
            return 2 * x

        result = output.map(double)
        calls.clear()
        return result, calls

    def test_each_is_computed_once_when_it_is_read(self) -> None:
        output, calls = self.mapped()
        assert len(output.stages) == 3 and calls == []
        assert output.stages[-1] is output.stages[2] and len(calls) == 1
        assert [float(x) for x in output.stages[1:]] == [2.0, 4.0] and len(calls) == 2
        assert [float(x) for x in output.stages] == [0.0, 2.0, 4.0] and len(calls) == 3
        with pytest.raises(IndexError):
            output.stages[3]

    def test_a_chain_computes_nothing_before_it_is_read(self) -> None:
        output, calls = self.mapped()
        last = output.detach().map(torch.Tensor.neg)
        assert calls == [] and float(last.stages[1]) == -2.0 and len(calls) == 1
        assert not last.stages[1].requires_grad

    def test_a_stage_that_is_read_without_gradient_first_has_one_later(self) -> None:
        output, _ = self.mapped()
        with torch.no_grad():
            assert output.stages[1].requires_grad
        with torch.no_grad():
            frozen = output.map(torch.Tensor.neg)
        assert not frozen.stages[0].requires_grad
