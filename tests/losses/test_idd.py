"""IDD against plain loops in float64, and its invariances."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.models import SegOutput


def center(features: Tensor, labels: Tensor, images: list[int], c: int) -> list[float] | None:
    rows = [
        features[n, :, i, j].tolist()
        for n in images
        for i, j in itertools.product(range(features.shape[2]), range(features.shape[3]))
        if int(labels[n, i, j]) == c
    ]
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)] if rows else None


def deviation(x: Tensor) -> float:
    """Of all values around the means of their channels."""
    squares = []
    for channel in x.transpose(0, 1).flatten(1).tolist():
        mean = sum(channel) / len(channel)
        squares += [(value - mean) ** 2 for value in channel]
    return math.sqrt(sum(squares) / len(squares))


def plain(s: Tensor, t: Tensor, labels: Tensor, *, centers: str, normalize: str, min_pixels: int) -> float:
    pairs, weights = [], []
    for images in [[0], [1]] if centers == "image" else [[0, 1]]:
        share = [min(1.0, sum(int((labels[n] == c).sum()) for n in images) / min_pixels) for c in range(3)]
        for a, b in itertools.combinations(range(3), 2):
            v = [center(x, labels, images, c) for x in (s, t) for c in (a, b)]
            if all(point is not None for point in v):
                pairs.append((math.dist(v[0], v[1]), math.dist(v[2], v[3])))  # type: ignore[arg-type]
                weights.append(share[a] * share[b])
    scales = [1.0, deviation(t) if normalize == "teacher" else 1.0]
    if normalize == "mean":
        scales = [
            sum(w * e for w, e in zip(weights, edges, strict=True)) / sum(weights) for edges in zip(*pairs, strict=True)
        ]
    squares = [(e_s / scales[0] - e_t / scales[1]) ** 2 for e_s, e_t in pairs]
    return sum(w * square for w, square in zip(weights, squares, strict=True)) / sum(weights)


@pytest.mark.parametrize("centers", ["image", "batch"])
@pytest.mark.parametrize("normalize", ["teacher", "mean", "none"])
@pytest.mark.parametrize("min_pixels", [1, 10])
@pytest.mark.parametrize("case", ["every class", "one absent"])
def test_graph_equals_plain_loops(centers: str, normalize: str, min_pixels: int, case: str, bench: Any) -> None:
    student, teacher, labels = bench.student(3), bench.student(4), bench.labels()[:, ::2, ::2].clone()
    if case == "one absent":
        labels[0][labels[0] == 1] = 0
    options = {"centers": centers, "normalize": normalize, "min_pixels": min_pixels}
    loss = bench.build("idd", teacher_channels=bench.C_S, weight=2.0, **options)
    expected = 2.0 * plain(student.embedding, teacher.embedding, labels, **options)  # type: ignore[arg-type]
    assert float(loss(student, teacher, labels)["idd"]) == pytest.approx(expected, abs=1e-9)


def with_embedding(output: SegOutput, embedding: Tensor) -> SegOutput:
    return replace(output, embedding=embedding)


def test_translation_and_rotation_change_nothing_and_scale_does(bench: Any) -> None:
    student, teacher, labels = bench.student(3), bench.student(4), bench.labels()
    f = student.embedding
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]

    def value(embedding: Tensor, **options: Any) -> float:
        loss = bench.build("idd", teacher_channels=bench.C_S, **options)
        return float(loss(with_embedding(student, embedding), teacher, labels)["idd"])

    assert value(teacher.embedding, normalize="none") == pytest.approx(0, abs=1e-12)
    assert value(f + 3.0) == pytest.approx(value(f), abs=1e-9)
    assert value(torch.einsum("cd,ndhw->nchw", rotation, f)) == pytest.approx(value(f), abs=1e-9)
    assert value(2 * f) != pytest.approx(value(f), rel=1e-3)
    assert value(2 * f, normalize="mean") == pytest.approx(value(f, normalize="mean"), abs=1e-9)


def test_a_class_alone_gives_zero_and_a_small_one_counts_by_its_pixels(bench: Any) -> None:
    student, teacher = bench.student(3), bench.teacher(4)
    embedding = student.embedding.clone().requires_grad_()
    labels = torch.ones(2, bench.H, bench.W, dtype=torch.int64)
    for normalize in ("teacher", "mean", "none"):
        value = bench.build("idd", normalize=normalize)(with_embedding(student, embedding), teacher, labels)["idd"]
        assert float(value.detach()) == 0 and float(torch.autograd.grad(value, embedding)[0].abs().max()) == 0
    halves = torch.tensor([[[0] * 4, [0] * 4, [1] * 4, [1] * 4]] * 2)
    halves[1, 0, 0] = bench.IGNORE
    one_pixel = halves.clone()
    one_pixel[1, 0, 0] = 2  # two more pairs, each with an eighth of the weight of the others

    def value_of(labels: Tensor, min_pixels: int) -> float:
        loss = bench.build("idd", min_pixels=min_pixels, weight=1.0, teacher_channels=bench.C_S)
        return float(loss(student, bench.student(4), labels)["idd"])

    without, equal, by_pixels = value_of(halves, 8), value_of(one_pixel, 1), value_of(one_pixel, 8)
    assert abs(by_pixels - without) < abs(equal - without) / 2


def test_absent_classes_take_little_memory(bench: Any) -> None:
    """The vectors between all pairs of 150 classes take 11 MiB for each image."""
    assert bench.peak_mib("idd", classes=150, present=5) < 8


def test_the_scale_of_the_teacher_does_not_matter(bench: Any) -> None:
    student, teacher, labels = bench.student(3), bench.teacher(4), bench.labels()
    larger = with_embedding(teacher, 10 * teacher.embedding)
    for options in ({"position_weight": 1.0}, {"normalize": "mean"}):
        terms = [bench.build("idd", **options)(student, output, labels) for output in (teacher, larger)]
        for name, term in terms[0].items():
            torch.testing.assert_close(terms[1][name], term)


class TestPosition:
    def test_identity_is_zero_and_only_the_teacher_fits_the_read_out(self, bench: Any) -> None:
        options = {"weight": 0.0, "position_weight": 1.0, "normalize": "none"}
        loss = bench.build("idd", teacher_channels=bench.C_S, **options)
        student = bench.student(3)
        assert float(loss(student, student, bench.labels())["idd_position"].detach()) == pytest.approx(0, abs=1e-20)
        embedding = student.embedding.clone().requires_grad_()
        teacher_embedding = bench.student(4).embedding.clone().requires_grad_()
        terms = loss(with_embedding(student, embedding), with_embedding(student, teacher_embedding), bench.labels())
        read_out = list(loss.read_out.parameters())
        gradients = torch.autograd.grad(
            terms["idd_position"], [embedding, *read_out], allow_unused=True, retain_graph=True
        )
        assert gradients[0] is not None and float(gradients[0].abs().sum()) > 0
        assert all(gradient is None for gradient in gradients[1:])
        gradients = torch.autograd.grad(
            terms["idd_read_out"], [embedding, teacher_embedding, *read_out], allow_unused=True
        )
        assert gradients[0] is None and gradients[1] is None
        assert all(float(gradient.abs().sum()) > 0 for gradient in gradients[2:])

    def test_the_read_out_learns_the_position_of_a_pixel(self, bench: Any) -> None:
        """From features that contain the position: x, then y, both in 0..1."""
        y, x = torch.meshgrid(torch.linspace(0, 1, 5), torch.linspace(0, 1, 7), indexing="ij")
        features = torch.stack([2 * x, 1 - y, x * y, x - y])[None].double()
        output = SegOutput(logits=features, embedding=features)
        options = {"weight": 0.0, "position_weight": 1.0, "normalize": "none"}
        loss = bench.build("idd", teacher_channels=bench.C_S, **options)
        optimiser = torch.optim.Adam(loss.parameters(), lr=0.01)
        for _ in range(300):
            optimiser.zero_grad()
            fit = loss(output, output, torch.zeros(1, 5, 7, dtype=torch.int64))["idd_read_out"]
            fit.backward()
            optimiser.step()
        assert float(fit.detach()) < 1e-3
        predicted = loss.read_out(features)[0]
        assert float((predicted[0] - x).abs().max()) < 0.2 and float((predicted[1] - y).abs().max()) < 0.2


def test_golden(bench: Any) -> None:
    loss = bench.build("idd", teacher_channels=bench.C_S, weight=1.0, normalize="none", min_pixels=1)
    value = loss(bench.student(3), bench.student(4), bench.labels())["idd"]
    assert float(value) == pytest.approx(0.761236381477, abs=1e-9)
