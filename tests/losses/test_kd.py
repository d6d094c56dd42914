"""Pixel-wise KD against plain loops in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.losses.kd import boundaries
from pipeline.models import SegOutput


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_equals_plain_loops(temperature: float, bench: Any) -> None:
    student, teacher = bench.student(3), bench.teacher(4)
    total = 0.0
    for n in range(2):
        for i in range(bench.H):
            for j in range(bench.W):
                s = [float(student.logits[n, k, i, j]) / temperature for k in range(bench.K)]
                t = [float(teacher.logits[n, k, i, j]) / temperature for k in range(bench.K)]
                sum_s, sum_t = sum(map(math.exp, s)), sum(map(math.exp, t))
                for k in range(bench.K):
                    p = math.exp(t[k]) / sum_t
                    total += p * (math.log(p) - (s[k] - math.log(sum_s)))
    expected = 2.5 * temperature**2 * total / (2 * bench.H * bench.W)
    value = bench.build("kd", temperature=temperature, weight=2.5)(student, teacher, torch.zeros(1))["kd"]
    assert float(value) == pytest.approx(expected, abs=1e-9)


def test_kd_of_itself_is_zero_and_golden(bench: Any) -> None:
    student, teacher = bench.student(3), bench.student(4)
    assert float(bench.build("kd")(student, student, torch.zeros(1))["kd"]) == pytest.approx(0, abs=1e-12)
    logits = torch.tensor([[[[0.0]], [[math.log(3.0)]]]])  # student: 1/4, 3/4; teacher: 1/2, 1/2
    pair = (SegOutput(logits=logits, embedding=logits), SegOutput(logits=torch.zeros(1, 2, 1, 1), embedding=logits))
    golden = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert float(bench.build("kd")(*pair, torch.zeros(1))["kd"]) == pytest.approx(golden, abs=1e-7)
    assert float(bench.build("kd")(student, teacher, torch.zeros(1))["kd"]) > 0


@pytest.mark.parametrize("padded", [False, True])
def test_pixels_on_boundaries_weigh_more_and_padding_has_none(padded: bool, bench: Any) -> None:
    student, teacher = bench.student(3), bench.teacher(4)
    hidden = {
        (n, i, j) for n in range(2) for i in range(bench.H) for j in range(bench.W) if padded and j == bench.W - 1
    }
    valid = torch.ones(2, bench.H, bench.W, dtype=torch.bool)
    for n, i, j in hidden:
        valid[n, i, j] = False
    with torch.no_grad():
        teacher.logits[:, 0, :, :2] += 10.0  # the left edge is far from a boundary
    classes = teacher.logits.argmax(1)
    expected = 0.0
    for n in range(2):
        total = weights = 0.0
        for i in range(bench.H):
            for j in range(bench.W):
                if (n, i, j) in hidden:
                    continue
                near = {
                    int(classes[n, y, x])
                    for y in range(max(0, i - 1), min(bench.H, i + 2))
                    for x in range(max(0, j - 1), min(bench.W, j + 2))
                    if (n, y, x) not in hidden
                }
                weight = 4.0 if len(near) > 1 else 1.0
                p, q = teacher.logits[n, :, i, j].softmax(0), student.logits[n, :, i, j].softmax(0)
                total += weight * float((p * (p / q).log()).sum())
                weights += weight
        expected += total / weights / 2
    pair = [replace(output, valid=valid if padded else None) for output in (student, teacher)]
    value = bench.build("kd", boundary=3.0)(*pair, torch.zeros(1))["kd"]
    assert float(value) == pytest.approx(expected, abs=1e-9)
    assert float(value) != pytest.approx(float(bench.build("kd")(*pair, torch.zeros(1))["kd"]), abs=1e-4)


def test_a_uniform_prediction_has_no_boundary() -> None:
    logits = torch.zeros(1, 3, 5, 6)
    logits[:, 1] = 1.0
    assert boundaries(logits).sum() == 0
    logits[:, 2, 0, 0] = 2.0  # one pixel of another class, in a corner: it and its three neighbours
    assert boundaries(logits).sum() == 4
