"""I2CKD against plain loops in float64, and the cases with an analytic value."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.models import SegOutput

K = 3


def prototype(features: Tensor, labels: Tensor, images: list[int], c: int, *, normalize: bool) -> list[float] | None:
    """Mean feature of a class over some images, value by value."""
    rows = [
        features[n, :, i, j].tolist()
        for n in images
        for i, j in itertools.product(range(features.shape[2]), range(features.shape[3]))
        if int(labels[n, i, j]) == c
    ]
    if not rows:
        return None
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return [value / math.hypot(*mean) for value in mean] if normalize else mean


def plain(
    s: Tensor,
    t: Tensor,
    labels: Tensor,
    *,
    margin: float,
    normalize: bool,
    scope: str,
    negatives: str,
    mining: str,
    min_pixels: int,
) -> float:
    values = []
    for images in [[0, 1]] if scope == "batch" else [[0], [1]]:
        p_s, p_t = (
            {c: p for c in range(K) if (p := prototype(x, labels, images, c, normalize=normalize)) is not None}
            for x in (s, t)
        )
        if not p_s:
            continue
        share = {c: min(1.0, sum(int((labels[n] == c).sum()) for n in images) / min_pixels) for c in p_s}
        hinges, weights = [], []
        for c in p_s:
            kinds = {"teacher": [p_t], "student": [p_s], "both": [p_t, p_s]}[negatives]
            far = [(math.dist(p_s[c], kind[other]), other) for kind in kinds for other in p_s if other != c]
            far = [min(far)] if mining == "hard" and far else far
            hinges += [max(0.0, math.dist(p_s[c], p_t[c]) - d + margin) for d, _ in far]
            weights += [share[c] * share[other] for _, other in far]
        alone = sum(math.dist(p_s[c], p_t[c]) for c in p_s)
        weighted = sum(weight * hinge for weight, hinge in zip(weights, hinges, strict=True))
        values.append(weighted / sum(weights) if hinges else alone)
    return sum(values) / len(values)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("scope", ["batch", "image"])
@pytest.mark.parametrize("negatives", ["teacher", "student", "both"])
@pytest.mark.parametrize("mining", ["all", "hard"])
@pytest.mark.parametrize("min_pixels", [1, 10])
@pytest.mark.parametrize("case", ["every class", "one image with one class"])
def test_equals_plain_loops(
    normalize: bool, scope: str, negatives: str, mining: str, min_pixels: int, case: str, bench: Any
) -> None:
    student, teacher, labels = bench.student(3), bench.student(4), bench.labels()[:, ::2, ::2].clone()
    if case != "every class":
        labels[1] = 2
    options = {
        "margin": 0.7, "normalize": normalize, "negatives": negatives, "mining": mining, "min_pixels": min_pixels,
    }  # fmt: skip
    loss = bench.build("i2ckd", teacher_channels=bench.C_S, weight=2.0, prototypes=scope, **options)
    expected = 2.0 * plain(student.embedding, teacher.embedding, labels, scope=scope, **options)  # type: ignore[arg-type]
    assert float(loss(student, teacher, labels)["i2ckd"]) == pytest.approx(expected, abs=1e-9)


def test_layers_are_averaged_each_through_its_adapter(bench: Any) -> None:
    student, teacher, labels = bench.student(3), bench.teacher(4), bench.labels()
    several = bench.build("i2ckd", layers=["stage1", "embedding"])
    values = []
    for layer, (s, t) in {
        "stage1": (student.stages[0], teacher.stages[0]),
        "embedding": (student.embedding, teacher.embedding),
    }.items():
        adapted = several.adapters[layer](s)
        one = bench.build("i2ckd", teacher_channels=bench.C_S)
        p_s, counts = one.prototypes_of(adapted, labels)
        values.append(one.triplets(p_s, one.prototypes_of(t, labels)[0], counts))
    assert sorted(name for name, _ in several.named_parameters()) == [
        "adapters.embedding.weight",
        "adapters.stage1.weight",
    ]
    expected = float(torch.stack(values).mean())
    assert float(several(student, teacher, labels)["i2ckd"]) == pytest.approx(expected, abs=1e-12)


def orthogonal(bench: Any) -> tuple[SegOutput, Tensor]:
    """Three classes at right angles: mutual distance sqrt(2)."""
    labels = torch.tensor([[[0, 1, 2]]])
    basis = torch.eye(4, dtype=torch.float64)[:, :3].reshape(1, 4, 1, 3)
    return SegOutput(logits=basis, embedding=basis), labels


@pytest.mark.parametrize("margin", [0.5, 1.9])
def test_equal_prototypes_give_the_analytic_hinge(margin: float, bench: Any) -> None:
    output, labels = orthogonal(bench)
    loss = bench.build("i2ckd", teacher_channels=bench.C_S, margin=margin)
    assert float(loss(output, output, labels)["i2ckd"]) == pytest.approx(max(0, margin - math.sqrt(2)), abs=1e-12)


def test_the_order_of_images_does_not_matter(bench: Any) -> None:
    student, teacher, labels = bench.student(3), bench.teacher(4), bench.labels()
    loss = bench.build("i2ckd")
    flipped = [output.map(lambda x: x.flip(0)) for output in (student, teacher)]
    expected = float(loss(student, teacher, labels)["i2ckd"])
    assert float(loss(*flipped, labels.flip(0))["i2ckd"]) == pytest.approx(expected, abs=1e-12)


def test_a_class_of_one_pixel_counts_by_its_pixels(bench: Any) -> None:
    """Three classes, one of them a single pixel: its triplets have an eighth of the weight of the others."""
    student, teacher = bench.student(3), bench.teacher(4)
    labels = torch.tensor([[[0] * 4, [0] * 4, [1] * 4, [1] * 4]] * 2)
    labels[0, 0, 0] = 2
    loss = bench.build("i2ckd", prototypes="image", min_pixels=8)
    s, t = (
        loss.prototypes_of(x, labels)[0] for x in (loss.adapters["embedding"](student.embedding), teacher.embedding)
    )

    def hinge(c: int, other: int) -> Tensor:
        return ((s[0, c] - t[0, c]).norm() - (s[0, c] - t[0, other]).norm() + 0.5).clamp(min=0)

    counts = torch.tensor([[7.0, 8.0, 1.0]], dtype=torch.float64)
    weights = {(c, o): float(counts[0, c] * counts[0, o]) for c, o in itertools.permutations(range(3), 2)}
    expected = sum(weight * hinge(*pair) for pair, weight in weights.items()) / sum(weights.values())
    assert float(loss.triplets(s[:1], t[:1], counts).detach()) == pytest.approx(float(expected.detach()), abs=1e-12)


@pytest.mark.parametrize("options", [{}, {"prototypes": "image", "negatives": "both", "mining": "hard"}])
def test_absent_classes_take_little_memory(options: dict[str, Any], bench: Any) -> None:
    """The vectors between all pairs of 150 classes take 22 MiB for one set of prototypes."""
    assert bench.peak_mib("i2ckd", classes=150, present=5, **options) < 8


def test_a_class_that_a_coarser_teacher_does_not_see_takes_no_part(bench: Any) -> None:
    student, teacher = bench.student(3), bench.student(4)
    coarse = SegOutput(logits=teacher.logits, embedding=teacher.embedding[..., ::4, ::4])  # one pixel per image
    labels = torch.zeros(2, bench.H, bench.W, dtype=torch.int64)
    labels[0, 3, 3] = 1  # reduced to one pixel, the label map keeps pixel (0, 0)
    loss = bench.build("i2ckd", teacher_channels=bench.C_S)
    without = labels.where(labels != 1, torch.tensor(bench.IGNORE))
    assert float(loss(student, coarse, labels)["i2ckd"]) == float(loss(student, coarse, without)["i2ckd"])


def test_only_ignored_pixels_give_zero(bench: Any) -> None:
    for scope in ("batch", "image"):
        loss = bench.build("i2ckd", prototypes=scope)
        assert float(loss(bench.student(), bench.teacher(), torch.full((2, 8, 8), bench.IGNORE))["i2ckd"]) == 0


def test_unknown_layer_is_refused(bench: Any) -> None:
    with pytest.raises(UserError, match=r"losses.i2ckd.layers: got .*stage9.*embedding, stage1, stage2"):
        bench.build("i2ckd", layers=["stage9"])


def test_golden(bench: Any) -> None:
    loss = bench.build("i2ckd", teacher_channels=bench.C_S, min_pixels=1)
    value = loss(bench.student(3), bench.student(4), bench.labels())["i2ckd"]
    assert float(value) == pytest.approx(0.637952168781, abs=1e-9)
