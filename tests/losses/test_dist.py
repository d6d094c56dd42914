"""DIST against plain loops in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.models import SegOutput


def pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    a, b = [x - mean_a for x in a], [x - mean_b for x in b]
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / (norms + 1e-8)


def rows(logits: Tensor, temperature: float) -> list[list[float]]:
    """Class probabilities of every pixel of the batch."""
    images, classes, height, width = logits.shape
    probabilities = []
    for n in range(images):
        for i in range(height):
            for j in range(width):
                powers = [math.exp(float(logits[n, k, i, j]) / temperature) for k in range(classes)]
                probabilities.append([power / sum(powers) for power in powers])
    return probabilities


def plain(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> list[float]:
    """The row term and the column term."""
    y_s, y_t = rows(student, temperature), rows(teacher, temperature)
    pixels = [pearson(a, b) for a, b in zip(y_s, y_t, strict=True)]
    classes = [pearson(list(a), list(b)) for a, b in zip(zip(*y_s, strict=True), zip(*y_t, strict=True), strict=True)]
    return [1 - sum(pixels) / len(pixels), 1 - sum(classes) / len(classes)]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_equals_plain_loops(temperature: float, bench: Any) -> None:
    student, teacher = bench.student(3), bench.teacher(4)
    inter, intra = plain(student.logits, teacher.logits, temperature=temperature)
    loss = bench.build("dist", inter_weight=2.0, intra_weight=3.0, temperature=temperature)
    values = {term: float(value) for term, value in loss(student, teacher, bench.labels()).items()}
    assert values == pytest.approx({"dist_inter": 2 * inter, "dist_intra": 3 * intra}, abs=1e-9)


def test_auxiliary_logits_count_where_both_have_them(bench: Any) -> None:
    student, teacher, loss = bench.student(3), bench.teacher(4), bench.build("dist")
    aux_s, aux_t = bench.student(5).logits, bench.student(6).logits
    terms = loss(replace(student, aux=aux_s), replace(teacher, aux=aux_t), bench.labels())
    assert float(terms["dist_aux"]) == pytest.approx(0.4 * sum(plain(aux_s, aux_t)), abs=1e-9)
    for ours, theirs in ((aux_s, None), (None, aux_t)):
        terms = loss(replace(student, aux=ours), replace(teacher, aux=theirs), bench.labels())
        assert set(terms) == {"dist_inter", "dist_intra"}


def total(bench: Any, student: SegOutput, teacher: SegOutput, target: Tensor) -> float:
    return float(sum(bench.build("dist")(student, teacher, target).values()))


def test_golden(bench: Any) -> None:
    """Two pixels of two classes that swap them: every correlation is -1, so the value is 2 + 2."""
    logits = torch.tensor([[[[1.0, -1.0]], [[-1.0, 1.0]]]], dtype=torch.float64)
    pair = (SegOutput(logits=logits, embedding=logits), SegOutput(logits=-logits, embedding=logits))
    assert total(bench, *pair, torch.zeros(1)) == pytest.approx(4.0, abs=1e-6)
    assert total(bench, pair[0], pair[0], torch.zeros(1)) == pytest.approx(0.0, abs=1e-6)


def test_scale_and_shift_of_a_row_do_not_matter(bench: Any) -> None:
    """Probabilities 0.3 y + 0.7 / K of a pixel correlate with y as well as y itself."""
    student = bench.student(3)
    mixed = replace(student, logits=(0.3 * student.logits.softmax(dim=1) + 0.7 / bench.K).log())
    assert total(bench, mixed, student, bench.labels()) == pytest.approx(0, abs=1e-5)
    brighter = replace(student, logits=student.logits + torch.randn(2, 1, 4, 4, dtype=torch.float64))
    assert total(bench, brighter, student, bench.labels()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.7])
def test_logits_without_spread_cost_one_each_and_stay_in_place(value: float, bench: Any) -> None:
    logits = torch.full((2, 19, 4, 4), value, requires_grad=True)
    teacher = torch.randn(2, 19, 4, 4)
    pair = (SegOutput(logits=logits, embedding=logits), SegOutput(logits=teacher, embedding=teacher))
    term = torch.stack(list(bench.build("dist").float()(*pair, bench.labels()).values())).sum()
    term.backward()
    assert float(term.detach()) == 2.0 and float(logits.grad.abs().max()) == 0
