"""Attention transfer against plain loops in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import losses
from pipeline.models import SegOutput


def plain(features: Tensor) -> list[list[float]]:
    """A unit attention map for each image."""
    images, channels, height, width = features.shape
    maps = []
    for n in range(images):
        energy = [
            sum(float(features[n, c, i, j]) ** 2 for c in range(channels)) / channels
            for i in range(height)
            for j in range(width)
        ]
        norm = math.sqrt(sum(value**2 for value in energy))
        maps.append([value / norm for value in energy])
    return maps


def test_at_equals_plain_loops(bench: Any) -> None:
    student, teacher = bench.student(3), bench.teacher(4)
    total = 0.0
    for ours, theirs in zip(plain(student.embedding), plain(teacher.embedding), strict=True):
        total += sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True))
    expected = 2.5 * total / 2 / (64 * 128)  # two images; positions of the published crops at stride 8
    value = bench.build("at", weight=2.5)(student, teacher, bench.labels())["at"]
    assert float(value) == pytest.approx(expected, abs=1e-12)


def test_golden() -> None:
    """Energies (9, 16) and (1, 0): unit maps (9, 16) / sqrt(337) and (1, 0); default weight 1e4 for 8192 positions."""
    student, teacher = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]]])
    pair = (SegOutput(logits=x.double(), embedding=x.double()) for x in (student, teacher))
    norm = math.sqrt(337)
    golden = 1e4 * ((9 / norm - 1) ** 2 + (16 / norm) ** 2) / 8192
    assert float(losses.build("at", {})(*pair, torch.zeros(1))["at"]) == pytest.approx(golden, rel=1e-12)


def test_at_the_published_crop_the_value_is_the_published_mean() -> None:
    """512 x 1024 at stride 8; the CIRKD code takes the mean over images and positions."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, 3, 64, 128, generator=generator, dtype=torch.float64) for _ in range(2)]
    unit_maps = [F.normalize(x.square().mean(dim=1).flatten(1)) for x in maps]
    pair = (SegOutput(logits=x, embedding=x) for x in maps)
    value = losses.build("at", {})(*pair, torch.zeros(1))["at"]
    assert float(value) == pytest.approx(1e4 * float(F.mse_loss(*unit_maps)), rel=1e-9)


def test_at_of_itself_is_zero_at_any_scale_sign_and_width(bench: Any) -> None:
    loss, student = bench.build("at"), bench.student(3)
    for scale in (1.0, -1.0, 1e-2, 1e3):
        scaled = replace(student, embedding=scale * student.embedding)
        assert float(loss(scaled, student, bench.labels())["at"]) == pytest.approx(0, abs=1e-12)
    twice = replace(student, embedding=torch.cat([student.embedding, student.embedding], dim=1))
    assert float(loss(student, twice, bench.labels())["at"]) == pytest.approx(0, abs=1e-12)
    assert float(loss(student, bench.teacher(4), bench.labels())["at"]) > 0


def test_the_scale_differs_between_images_without_effect(bench: Any) -> None:
    loss, student, teacher = bench.build("at"), bench.student(3), bench.teacher(4)
    factor = torch.tensor([0.5, 7.0], dtype=torch.float64)[:, None, None, None]
    before = loss(student, teacher, bench.labels())["at"]
    after = loss(replace(student, embedding=factor * student.embedding), teacher, bench.labels())["at"]
    assert float(after) == pytest.approx(float(before), rel=1e-12)
