"""Pixel-wise KD against plain loops in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

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
