"""Inter-class similarity distillation against plain loops in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import losses
from pipeline.models import SegOutput


def divergences(image: Tensor) -> list[list[float]]:
    """KL(P_c || P_c') of one image (K, h, w), P_c a softmax over all positions."""
    maps = []
    for channel in image:
        powers = [math.exp(value) for value in channel.flatten().tolist()]
        maps.append([power / sum(powers) for power in powers])
    return [[sum(p * math.log(p / q) for p, q in zip(a, b, strict=True)) for b in maps] for a in maps]


def matrices(logits: Tensor, scope: str) -> list[list[list[float]]]:
    results = [divergences(image) for image in logits]
    if scope == "batch":
        size = range(len(results[0]))
        results = [[[sum(matrix[a][b] for matrix in results) / len(results) for b in size] for a in size]]
    return [[[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in matrix] for matrix in results]


def plain(student: Tensor, teacher: Tensor, scope: str) -> float:
    ours, theirs = (torch.tensor(matrices(logits, scope), dtype=torch.float64) for logits in (student, teacher))
    gaps = [(a - b) ** 2 for a, b in zip(ours.flatten().tolist(), theirs.flatten().tolist(), strict=True)]
    return sum(gaps) / len(gaps)


def plain_kd(student: Tensor, teacher: Tensor) -> float:
    total, (images, classes, height, width) = 0.0, student.shape
    for n in range(images):
        for i in range(height):
            for j in range(width):
                s, t = ([math.exp(float(z[n, k, i, j])) for k in range(classes)] for z in (student, teacher))
                total += sum(b / sum(t) * math.log((b / sum(t)) / (a / sum(s))) for a, b in zip(s, t, strict=True))
    return total / student.numel()


@pytest.mark.parametrize("scope", ["image", "batch"])
def test_aicsd_equals_plain_loops(scope: str, bench: Any) -> None:
    student, teacher = bench.student(3), bench.teacher(4)
    loss = bench.build("aicsd", scope=scope, adaptive=False, weight=2.5, kd_weight=3.0)
    terms = loss(student, teacher, bench.labels())
    expected = {
        "aicsd": 2.5 * plain(student.logits, teacher.logits, scope),
        "aicsd_kd": 3.0 * plain_kd(student.logits, teacher.logits),
    }
    assert {key: float(term) for key, term in terms.items()} == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("scope", ["image", "batch"])
def test_gradient_of_the_matrix_term_is_the_derivative(scope: str, bench: Any) -> None:
    loss, teacher = bench.build("aicsd", scope=scope, adaptive=False), bench.teacher(4)

    def value(logits: Tensor) -> Tensor:
        return loss(replace(teacher, logits=logits), teacher, bench.labels())["aicsd"]

    assert torch.autograd.gradcheck(value, (bench.student(3).logits.requires_grad_(),))


def test_golden() -> None:
    """Two classes: the one divergence in a unit row is 1, in the student and in the teacher; equal maps give 0."""
    apart = torch.tensor([[[[0.0, 2.0]], [[3.0, 0.0]]]], dtype=torch.float64)
    alike = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    pair = [SegOutput(logits=x, embedding=x) for x in (apart, alike)]
    loss = losses.build("aicsd", {"adaptive": False, "weight": 1.0})
    assert float(loss(*pair, torch.zeros(1))["aicsd"]) == pytest.approx(2 / 4, abs=1e-12)
    assert float(loss(pair[0], pair[0], torch.zeros(1))["aicsd"]) == pytest.approx(0, abs=1e-12)


def test_only_the_places_of_a_class_matter_to_the_matrix(bench: Any) -> None:
    student = bench.student(3)
    shifted = replace(student, logits=student.logits + torch.randn(2, bench.K, 1, 1, dtype=torch.float64))
    terms = bench.build("aicsd", adaptive=False)(shifted, student, bench.labels())
    assert float(terms["aicsd"]) == pytest.approx(0, abs=1e-12) and float(terms["aicsd_kd"]) > 0


@pytest.mark.parametrize("value", [0.0, -3.7])
def test_equal_maps_of_many_positions_give_no_noise_in_float32(value: float) -> None:
    """Round-off of a KL that should be zero must not become a unit row."""
    logits = torch.full((1, 19, 64, 64), value, requires_grad=True)
    teacher = torch.randn(1, 19, 64, 64)
    pair = (SegOutput(logits=x, embedding=x) for x in (logits, teacher))
    losses.build("aicsd", {"adaptive": False, "weight": 1.0})(*pair, torch.zeros(1))["aicsd"].backward()
    assert logits.grad is not None and float(logits.grad.abs().max()) == 0


def test_weight_moves_from_kd_to_the_matrix_during_training() -> None:
    """The task applies the schedules; without them both terms count from the first step to the last."""
    loss = losses.build("aicsd", {"weight": 3.0})
    assert list(loss.buffers()) == []
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
        factors = {term: weight.factor(alpha) for term, weight in loss.term_weights.items()}
        assert factors == pytest.approx({"aicsd": alpha, "aicsd_kd": 1 - alpha}, abs=1e-12)
    constant = losses.build("aicsd", {"adaptive": False})
    assert not any(weight.changes for weight in constant.term_weights.values())


def test_a_schedule_in_params_replaces_that_of_the_method() -> None:
    loss = losses.build("aicsd", {"weight": "auto", "kd_weight": {"constant": 5.0, "until": 0.5}})
    weights = loss.term_weights
    assert (weights["aicsd"].share, weights["aicsd"].warmup) == (0.5, 1.0)
    assert (weights["aicsd_kd"].base, weights["aicsd_kd"].decay, weights["aicsd_kd"].until) == (5.0, 0.0, 0.5)
