"""Channel-wise distillation against plain loops in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import losses
from pipeline.models import SegOutput


def plain(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T^2 / (N * C) * sum of KL(teacher || student), each map a distribution over positions."""
    images, channels = student.shape[:2]
    total = 0.0
    for n in range(images):
        for c in range(channels):
            s = [value / temperature for value in student[n, c].flatten().tolist()]
            t = [value / temperature for value in teacher[n, c].flatten().tolist()]
            sum_s, sum_t = sum(map(math.exp, s)), sum(map(math.exp, t))
            for a, b in zip(s, t, strict=True):
                p = math.exp(b) / sum_t
                total += p * (math.log(p) - math.log(math.exp(a) / sum_s))
    return temperature**2 * total / (images * channels)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_both_terms_equal_plain_loops(temperature: float, bench: Any) -> None:
    student, teacher = bench.student(3), bench.teacher(4)
    loss = bench.build("cwd", temperature=temperature, logit_weight=2.0, feature_weight=5.0)
    weight = dict(loss.named_parameters())["adapter.weight"].detach()[:, :, 0, 0]
    adapted = torch.zeros(2, bench.C_T, bench.H, bench.W, dtype=torch.float64)
    for t in range(bench.C_T):
        for s in range(bench.C_S):
            adapted[:, t] += weight[t, s] * student.embedding[:, s]
    terms = loss(student, teacher, bench.labels())
    assert set(terms) == {"cwd_logit", "cwd_feature"}
    expected = {
        "cwd_logit": 2.0 * plain(student.logits, teacher.logits, temperature),
        "cwd_feature": 5.0 * plain(adapted, teacher.embedding, temperature),
    }
    assert {key: float(term.detach()) for key, term in terms.items()} == pytest.approx(expected, abs=1e-9)


def test_golden() -> None:
    """Student's map 1/4, 3/4; teacher's 1/2, 1/2; the second of two channels agrees; default weight and T = 4."""
    logits = torch.tensor([[[[0.0, 4 * math.log(3.0)]], [[1.0, 2.0]]]], dtype=torch.float64)
    other = torch.tensor([[[[0.0, 0.0]], [[1.0, 2.0]]]], dtype=torch.float64)
    loss = losses.build("cwd", {}, student_channels=2, teacher_channels=2)
    pair = (SegOutput(logits=logits, embedding=logits), SegOutput(logits=other, embedding=other))
    golden = 3.0 * 16 / 2 * (0.5 * math.log(2.0) + 0.5 * math.log(2 / 3))
    assert float(loss(*pair, torch.zeros(1))["cwd_logit"]) == pytest.approx(golden, abs=1e-12)


def test_only_the_distribution_over_positions_matters(bench: Any) -> None:
    student, teacher = bench.student(3), bench.student(4)
    shift = torch.randn(2, bench.K, 1, 1, dtype=torch.float64)
    loss = bench.build("cwd")
    before = loss(student, teacher, bench.labels())["cwd_logit"]
    moved = loss(replace(student, logits=student.logits + shift), teacher, bench.labels())["cwd_logit"]
    assert float(moved) == pytest.approx(float(before), abs=1e-9) and float(before) > 0
    same = bench.build("cwd", feature_weight=50.0, teacher_channels=bench.C_S)(student, student, bench.labels())
    assert [float(term) for term in same.values()] == pytest.approx([0.0, 0.0], abs=1e-12)


def test_peaked_maps_of_many_positions_do_not_underflow(bench: Any) -> None:
    student = SegOutput(logits=torch.zeros(1, 1, 64, 64), embedding=torch.zeros(1, 4, 64, 64))
    peak = torch.zeros(1, 1, 64, 64)
    peak[..., 5, 5] = 1e4
    for pair in ((student, replace(student, logits=peak)), (replace(student, logits=peak), student)):
        assert bool(bench.build("cwd", temperature=1.0).float()(*pair, torch.zeros(1))["cwd_logit"].isfinite())


def test_the_adapter_is_built_only_when_used(bench: Any) -> None:
    assert not list(bench.build("cwd").parameters())
    assert [p.shape for p in bench.build("cwd", feature_weight=50.0).parameters()] == [(bench.C_T, bench.C_S, 1, 1)]
