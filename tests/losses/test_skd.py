"""Pair-wise distillation against plain loops in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import losses
from pipeline.models import SegOutput


def regions(image: Tensor, *, kernel: tuple[int, int]) -> list[list[float]]:
    """Max-pooled vectors of one image (C, h, w), windows cut off at the border, unit length."""
    channels, height, width = image.shape
    vectors = []
    for i in range(0, height, kernel[0]):
        for j in range(0, width, kernel[1]):
            places = [(y, x) for y in range(i, min(i + kernel[0], height)) for x in range(j, min(j + kernel[1], width))]
            vector = [max(float(image[c, y, x]) for y, x in places) for c in range(channels)]
            norm = math.sqrt(sum(value**2 for value in vector))
            vectors.append([value / norm for value in vector])
    return vectors


def plain(student: Tensor, teacher: Tensor, *, kernel: tuple[int, int]) -> float:
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        s, t = regions(ours, kernel=kernel), regions(theirs, kernel=kernel)
        for p in range(len(s)):
            for q in range(len(s)):
                gap = sum(x * y for x, y in zip(s[p], s[q], strict=True))
                gap -= sum(x * y for x, y in zip(t[p], t[q], strict=True))
                total += gap**2 / len(s) ** 2
    return total / len(student)


@pytest.mark.parametrize(("kernel", "size"), [(1, (4, 4)), (2, (4, 4)), (2, (5, 3)), (3, (4, 5))])
def test_kernel_mode_equals_plain_loops(kernel: int, size: tuple[int, int], bench: Any) -> None:
    student, teacher = bench.student(3, size=size), bench.teacher(4, size=size)
    expected = 2.5 * plain(student.embedding, teacher.embedding, kernel=(kernel, kernel))
    value = bench.build("skd", weight=2.5, kernel=kernel)(student, teacher, bench.labels())["skd"]
    assert float(value) == pytest.approx(expected, abs=1e-12)


def test_grid_mode_equals_plain_loops(bench: Any) -> None:
    student, teacher = bench.student(3, size=(4, 6)), bench.teacher(4, size=(4, 6))
    expected = 10.0 * plain(student.embedding, teacher.embedding, kernel=(2, 3))
    value = bench.build("skd", mode="grid")(student, teacher, bench.labels())["skd"]
    assert float(value) == pytest.approx(expected, abs=1e-12)
    odd = [output(seed, size=(5, 7)) for output, seed in ((bench.student, 3), (bench.teacher, 4))]
    assert float(bench.build("skd", mode="grid", grid=3)(*odd, bench.labels())["skd"]) > 0


def test_golden() -> None:
    """Regions (1, 0) and (0, 1) of the student, (3, 4) and (4, 3) of the teacher: cosines 0 and 24/25."""
    student = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 1.0]]]], dtype=torch.float64)
    teacher = torch.tensor([[[[3.0, 2.0, 1.0, 4.0]], [[1.0, 4.0, 3.0, 2.0]]]], dtype=torch.float64)
    pair = (SegOutput(logits=x, embedding=x) for x in (student, teacher))
    golden = 10.0 * 2 * 0.96**2 / 4
    assert float(losses.build("skd", {})(*pair, torch.zeros(1))["skd"]) == pytest.approx(golden, abs=1e-12)


@pytest.mark.parametrize("mode", ["kernel", "grid"])
def test_skd_of_itself_is_zero_at_any_scale_and_rotation(mode: str, bench: Any) -> None:
    loss, student = bench.build("skd", mode=mode, kernel=1, grid=4), bench.student(3)
    rotation = torch.linalg.qr(torch.randn(bench.C_S, bench.C_S, dtype=torch.float64)).Q
    rotated = 7.0 * torch.einsum("dc,nchw->ndhw", rotation, student.embedding)
    assert float(loss(student, student, bench.labels())["skd"]) == pytest.approx(0, abs=1e-12)
    assert float(loss(replace(student, embedding=rotated), student, bench.labels())["skd"]) == pytest.approx(
        0, abs=1e-12
    )
    assert float(loss(student, bench.teacher(4), bench.labels())["skd"]) > 0
