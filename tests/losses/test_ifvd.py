"""Intra-class feature variation against plain loops in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import losses
from pipeline.models import SegOutput


def cosine(a: list[float], b: list[float]) -> float:
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norms


def plain(features: Tensor, labels: Tensor, ignore: int) -> list[float]:
    """Cosine of every pixel with the centre of its class in its image; an ignored pixel is its own centre."""
    images, channels, height, width = features.shape
    cosines = []
    for n in range(images):
        pixels = {
            (i, j): [float(features[n, c, i, j]) for c in range(channels)] for i in range(height) for j in range(width)
        }
        classes = {(i, j): int(labels[n, 2 * i, 2 * j]) for i, j in pixels}  # nearest neighbour
        for place, own in pixels.items():
            members = [pixels[q] for q in pixels if classes[q] == classes[place]]
            centre = [sum(values) / len(members) for values in zip(*members, strict=True)]
            cosines.append(cosine(own, own if classes[place] == ignore else centre))
    return cosines


def test_ifvd_equals_plain_loops(bench: Any) -> None:
    student, teacher, labels = bench.student(3), bench.teacher(4), bench.labels()
    assert bool((labels[:, ::2, ::2] == bench.IGNORE).any())
    ours, theirs = (plain(output.embedding, labels, bench.IGNORE) for output in (student, teacher))
    expected = 2.5 * sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / (2 * bench.H * bench.W)
    value = bench.build("ifvd", weight=2.5)(student, teacher, labels)["ifvd"]
    assert float(value) == pytest.approx(expected, abs=1e-12)


def test_golden() -> None:
    """Student's pixels (1, 0) and (0, 1) lie 45 degrees off their centre, the teacher's on it; one pixel is ignored."""
    student = torch.tensor([[[[1.0, 0.0, 5.0]], [[0.0, 1.0, 5.0]]]], dtype=torch.float64)
    teacher = torch.ones(1, 4, 1, 3, dtype=torch.float64)
    pair = (SegOutput(logits=x, embedding=x) for x in (student, teacher))
    loss = losses.build("ifvd", {}, num_classes=2, ignore_index=255)
    golden = 20.0 * 2 * (math.sqrt(0.5) - 1) ** 2 / 3
    assert float(loss(*pair, torch.tensor([[[1, 1, 255]]]))["ifvd"]) == pytest.approx(golden, abs=1e-12)


def test_ifvd_of_itself_is_zero_at_any_scale(bench: Any) -> None:
    loss, student = bench.build("ifvd"), bench.student(3)
    scaled = replace(student, embedding=40.0 * student.embedding)
    assert float(loss(scaled, student, bench.labels())["ifvd"]) == pytest.approx(0, abs=1e-12)
    assert float(loss(student, bench.teacher(4), bench.labels())["ifvd"]) > 0


def test_ignored_pixels_and_singletons_add_nothing(bench: Any) -> None:
    loss, student, teacher = bench.build("ifvd"), bench.student(3), bench.teacher(4)
    ignored = torch.full((2, 8, 8), bench.IGNORE)
    assert float(loss(student, teacher, ignored)["ifvd"]) == 0
    alone = ignored.clone()
    alone[:, 2:4, 2:4] = 1  # one pixel at feature size: its own centre
    assert float(loss(student, teacher, alone)["ifvd"]) == pytest.approx(0, abs=1e-12)


def test_gradient_flows_through_the_centre(bench: Any) -> None:
    """With a detached centre a pixel that equals its class mean would get no gradient from its neighbours' terms."""
    features = torch.tensor([[[[1.0, 3.0, 2.0]], [[0.0, 2.0, 1.0]]]], dtype=torch.float64, requires_grad=True)
    teacher = torch.ones(1, 2, 1, 3, dtype=torch.float64)
    loss = losses.build("ifvd", {}, num_classes=1, ignore_index=255)
    pair = (SegOutput(logits=x, embedding=x) for x in (features, teacher))
    loss(*pair, torch.zeros(1, 1, 3, dtype=torch.int64))["ifvd"].backward()
    assert features.grad is not None and float(features.grad[0, :, 0, 2].abs().sum()) > 1e-3  # the mean itself
