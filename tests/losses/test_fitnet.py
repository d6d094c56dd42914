"""Feature imitation against plain loops in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def test_fitnet_equals_plain_loops(bench: Any) -> None:
    student, teacher = bench.student(5), bench.teacher(6)
    loss = bench.build("fitnet", weight=3.0)
    weight = dict(loss.named_parameters())["adapter.weight"]
    total = 0.0
    for n in range(2):
        for i in range(bench.H):
            for j in range(bench.W):
                for t in range(bench.C_T):
                    adapted = sum(
                        float(weight.detach()[t, s, 0, 0]) * float(student.embedding[n, s, i, j])
                        for s in range(bench.C_S)
                    )
                    total += (adapted - float(teacher.embedding[n, t, i, j])) ** 2
    expected = 3.0 * total / (2 * bench.C_T * bench.H * bench.W)
    assert float(loss(student, teacher, torch.zeros(1))["fitnet"]) == pytest.approx(expected, abs=1e-9)
