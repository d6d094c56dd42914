"""Embeddings of any stride: pools, numbers of pixels, the warning of stride 1."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pipeline import losses, models
from pipeline.losses._stride import pooled, pooling, published_pixels

FACTS = {"num_classes": 3, "ignore_index": 255, "student_channels": 4, "teacher_channels": 6}


@pytest.mark.parametrize(("stride", "pool", "pixels"), [(1, 8, 2), (2, 4, 7), (4, 2, 26), (8, 1, 101), (16, 1, 101)])
def test_defaults_follow_the_stride(stride: int, pool: int, pixels: int) -> None:
    assert pooling(stride, None, loss="x") == pool and pooling(stride, 3, loss="x") == 3
    assert published_pixels(101, stride=stride) == pixels
    for name in ("cirkd", "pfs"):
        loss: Any = losses.build(name, {}, student_output_stride=stride, **FACTS)
        assert loss.pool == pool
        assert losses.build(name, {"pool": 1}, student_output_stride=stride, **FACTS).pool == 1


def test_pooling_takes_means_of_squares_and_of_what_a_border_leaves() -> None:
    x = torch.randn(1, 2, 5, 4)
    assert pooled(x, 1) is x
    small = pooled(x, 2)
    assert small.shape == (1, 2, 3, 2)
    torch.testing.assert_close(small[..., 0, 0], x[..., :2, :2].mean(dim=(2, 3)))
    torch.testing.assert_close(small[..., 2, 1], x[..., 4, 2:].mean(dim=2))


def test_anchors_are_as_many_as_at_stride_8() -> None:
    labels = torch.arange(6 * 64).view(6, 8, 8) % 4  # 96 pixels at stride 8
    labels = labels.where(labels < 3, torch.tensor(255))
    for options, expected in (({}, 96), ({"max_anchors": 5}, 5), ({"max_anchors": 10**6}, 288)):
        loss: Any = losses.build("cirkd", options, student_output_stride=4, **FACTS)
        anchors = loss.anchors(labels)
        assert len(set(anchors.tolist())) == len(anchors) == expected
        assert bool((labels.flatten()[anchors] != 255).all())
    at_8: Any = losses.build("cirkd", {}, student_output_stride=8, **FACTS)
    assert at_8.anchors(labels).tolist() == (labels.flatten() != 255).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("name", ["cirkd", "pfs"])
def test_a_stride_below_8_is_a_pooled_embedding(name: str, bench: Any) -> None:
    """The term of pairs at stride 4 is that of a pooled embedding at stride 8, value and gradient."""
    options = {"cirkd": {"pixel_weight": 0.0, "region_weight": 0.0}, "pfs": {"imitation_weight": 0.0}}[name]
    student, teacher = (
        output.map(lambda x: x.clone().requires_grad_()) for output in (bench.student(), bench.teacher())
    )
    fine, coarse = (losses.build(name, options, student_output_stride=stride, **FACTS).double() for stride in (4, 8))
    (value,) = fine(student, teacher, bench.labels()).values()
    small = [output.map(lambda x: F.avg_pool2d(x, 2)) for output in (student, teacher)]
    (expected,) = coarse(*small, bench.labels()).values()
    assert float(value) == pytest.approx(float(expected), rel=1e-12) and float(value) > 0
    torch.testing.assert_close(*(torch.autograd.grad(v, student.embedding)[0] for v in (value, expected)))


@pytest.mark.parametrize(
    ("name", "pool", "cost"), [("cirkd", None, "with pool 8, 1 times"), ("pfs", 2, "with pool 2, 256 times")]
)
def test_stride_1_is_one_warning_with_its_cost(
    name: str, pool: int | None, cost: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        losses.build(name, {} if pool is None else {"pool": pool}, student_output_stride=1, **FACTS)
        losses.build(name, {}, student_output_stride=4, **FACTS)
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith(f"losses.{name}: the student's embedding has stride 1: 64 times the pixels of stride 8")
    assert cost in text and "\n" not in text


def test_a_run_offers_the_stride_of_its_student(bench: Any) -> None:
    """A U-Net has stride 1, the student of the default run 4."""
    for architecture, pool in (("unet", 8), ("deeplabv3plus", 2), ("fpn", 2), ("deeplabv3", 1)):
        student = models.build("smp", {"architecture": architecture, "encoder": "resnet18"}, num_classes=3)
        assert max(1, 8 // student.facts.output_stride) == pool
        facts = {**FACTS, **student.facts.offered("student")}
        loss: Any = losses.build("cirkd", {}, **facts)
        assert loss.pool == pool
        output = student.eval()(torch.zeros(1, 3, 64, 64))
        assert output.embedding.shape[-1] * student.facts.output_stride == 64
