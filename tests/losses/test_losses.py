"""Contract of every loss, and each loss against plain loops in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import losses
from pipeline.errors import UserError
from pipeline.losses import DistillationLoss
from pipeline.models import SegOutput

K, C_S, C_T, H, W = 3, 4, 6, 2, 3
OFFERED = {
    "num_classes": K,
    "ignore_index": 255,
    "student_channels": C_S,
    "teacher_channels": C_T,
    "student_stage_channels": (2, 4),
    "teacher_stage_channels": (3, 6),
}
NAMES = losses.available()


def output(channels: int, seed: int, *, requires_grad: bool = False) -> SegOutput:
    generator = torch.Generator().manual_seed(seed)

    def tensor(c: int) -> Tensor:
        return torch.randn(2, c, H, W, generator=generator, dtype=torch.float64).requires_grad_(requires_grad)

    return SegOutput(logits=tensor(K), embedding=tensor(channels), stages=(tensor(channels // 2), tensor(channels)))


def build(name: str, **options: float) -> DistillationLoss:
    torch.manual_seed(0)
    return losses.build(name, options, **OFFERED).double()


def test_the_three_losses_are_there() -> None:
    assert {"none", "kd", "fitnet"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_terms_are_finite_scalars_and_only_the_student_learns(self, name: str) -> None:
        student, teacher = output(C_S, 1, requires_grad=True), output(C_T, 2, requires_grad=True)
        loss = build(name)
        terms = loss(student, teacher.detach(), torch.zeros(2, 8, 12, dtype=torch.int64))
        assert all(term.shape == () and bool(torch.isfinite(term)) for term in terms.values())
        assert bool(terms) == loss.uses_teacher
        if terms:
            torch.stack(list(terms.values())).sum().backward()
            touched = [tensor for tensor in (student.logits, student.embedding) if tensor.grad is not None]
            assert touched and all(bool(tensor.grad.abs().sum() > 0) for tensor in touched)
        assert teacher.logits.grad is None and teacher.embedding.grad is None

    def test_everything_ignored_stays_finite(self, name: str) -> None:
        terms = build(name)(output(C_S, 1), output(C_T, 2), torch.full((2, 8, 12), 255))
        assert all(bool(torch.isfinite(term)) for term in terms.values())

    def test_runs_under_autocast_with_float32_terms(self, name: str) -> None:
        loss = build(name).float()
        student, teacher = (replace_dtype(output(c, s), torch.bfloat16) for c, s in ((C_S, 1), (C_T, 2)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            terms = loss(student, teacher, torch.zeros(2, 8, 12, dtype=torch.int64))
        assert all(term.dtype == torch.float32 for term in terms.values())

    def test_gradient_is_the_derivative(self, name: str) -> None:
        loss, student, teacher = build(name), output(C_S, 1), output(C_T, 2)
        if not loss.uses_teacher:
            pytest.skip("a loss without terms has no gradient")

        def value(logits: Tensor, embedding: Tensor) -> Tensor:
            terms = loss(replace(student, logits=logits, embedding=embedding), teacher, torch.zeros(2, 8, 12).long())
            return torch.stack(list(terms.values())).sum()

        inputs = (student.logits.detach().requires_grad_(), student.embedding.detach().requires_grad_())
        assert torch.autograd.gradcheck(value, inputs)

    def test_unknown_option_names_the_closest(self, name: str) -> None:
        with pytest.raises(UserError, match="wieght: unknown option"):
            losses.build(name, {"wieght": 1.0}, **OFFERED)


def replace_dtype(value: SegOutput, dtype: torch.dtype) -> SegOutput:
    return SegOutput(logits=value.logits.to(dtype), embedding=value.embedding.to(dtype))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_equals_plain_loops(temperature: float) -> None:
    student, teacher = output(C_S, 3), output(C_T, 4)
    total = 0.0
    for n in range(2):
        for i in range(H):
            for j in range(W):
                s = [float(student.logits[n, k, i, j]) / temperature for k in range(K)]
                t = [float(teacher.logits[n, k, i, j]) / temperature for k in range(K)]
                sum_s, sum_t = sum(map(math.exp, s)), sum(map(math.exp, t))
                for k in range(K):
                    p = math.exp(t[k]) / sum_t
                    total += p * (math.log(p) - (s[k] - math.log(sum_s)))
    expected = 2.5 * temperature**2 * total / (2 * H * W)
    got = build("kd", temperature=temperature, weight=2.5)(student, teacher, torch.zeros(1))["kd"]
    assert float(got) == pytest.approx(expected, abs=1e-9)


def test_kd_of_itself_is_zero_and_golden() -> None:
    student, teacher = output(C_S, 3), output(C_S, 4)
    assert float(build("kd")(student, student, torch.zeros(1))["kd"]) == pytest.approx(0, abs=1e-12)
    logits = torch.tensor([[[[0.0]], [[math.log(3.0)]]]])  # student: 1/4, 3/4; teacher: 1/2, 1/2
    pair = (SegOutput(logits=logits, embedding=logits), SegOutput(logits=torch.zeros(1, 2, 1, 1), embedding=logits))
    golden = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert float(build("kd")(*pair, torch.zeros(1))["kd"]) == pytest.approx(golden, abs=1e-7)
    assert float(build("kd")(student, teacher, torch.zeros(1))["kd"]) > 0


def test_kd_refuses_a_temperature_that_is_not_positive() -> None:
    with pytest.raises(UserError, match="temperature"):
        build("kd", temperature=0.0)


def test_fitnet_equals_plain_loops() -> None:
    student, teacher = output(C_S, 5), output(C_T, 6)
    loss = build("fitnet", weight=3.0)
    weight = dict(loss.named_parameters())["adapter.weight"]
    total = 0.0
    for n in range(2):
        for i in range(H):
            for j in range(W):
                for t in range(C_T):
                    adapted = sum(
                        float(weight.detach()[t, s, 0, 0]) * float(student.embedding[n, s, i, j]) for s in range(C_S)
                    )
                    total += (adapted - float(teacher.embedding[n, t, i, j])) ** 2
    expected = 3.0 * total / (2 * C_T * H * W)
    assert float(loss(student, teacher, torch.zeros(1))["fitnet"]) == pytest.approx(expected, abs=1e-9)


def test_the_loss_of_the_contributing_guide_runs_as_it_stands() -> None:
    guide = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = guide.split("```python\n")[1].split("```")[0]
    namespace: dict[str, Any] = {"__name__": "logit_mse"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), namespace)
    student, teacher = output(C_S, 1), output(C_T, 2)
    terms = namespace["LogitMSE"](weight=2.0)(student, teacher, torch.zeros(1))
    expected = 2.0 * float((student.logits - teacher.logits).pow(2).mean())
    assert float(terms["logit_mse"]) == pytest.approx(expected, rel=1e-5)
