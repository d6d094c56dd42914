"""Af-DCD against plain loops in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import UserError


def contrast(ours: Tensor, theirs: Tensor, *, groups: int, patch: int, temperature: float) -> float:
    """Sum of the cross-entropies over the anchors of (N, C, h, w) maps, divided by N and h*w; no pooling."""
    images, channels, height, width = ours.shape
    width_of_group = channels // groups

    def vector(x: Tensor, n: int, place: tuple[int, int], group: int) -> list[float]:
        return x[n, group * width_of_group : (group + 1) * width_of_group, place[0], place[1]].tolist()

    def similarity(a: list[float], b: list[float]) -> float:
        return -sum(abs(x - y) for x, y in zip(a, b, strict=True)) / temperature

    total = 0.0
    for n in range(images):
        for top in range(0, height, patch):
            for left in range(0, width, patch):
                places = [(top + i, left + j) for i in range(patch) for j in range(patch)]
                for place in places:
                    for group in range(groups):
                        anchor = vector(ours, n, place, group)
                        positive = similarity(anchor, vector(theirs, n, place, group))
                        others = [
                            similarity(anchor, vector(theirs, n, q, g))
                            for q in places
                            for g in range(groups)
                            if g != group
                        ]
                        total += math.log(sum(map(math.exp, [positive, *others]))) - positive
    return total / (images * height * width)


def generate(loss: Any, features: Tensor) -> Tensor:
    """The loss's generated features with the mask of seed 5; the generation itself is tested with MGD."""
    torch.manual_seed(5)
    with torch.no_grad():
        generated: Tensor = loss.generation(features, features)[0]
    return generated


@pytest.mark.parametrize("feature", ["stage", "embedding"])
def test_both_terms_equal_plain_loops(feature: str, bench: Any) -> None:
    student, teacher = bench.student(3), bench.teacher(4)
    options = {"groups": 3, "patch": 2, "temperature": 0.7}
    weights = {"reconstruction_weight": 0.5, "contrast_weight": 2.5}
    loss = bench.build("af_dcd", feature=feature, **options, **weights)
    ours, theirs = (output.stages[-1] if feature == "stage" else output.embedding for output in (student, teacher))
    generated = generate(loss, ours)
    gaps = (generated - theirs).flatten().tolist()
    expected = {
        "af_dcd_reconstruction": 0.5 * sum(gap**2 for gap in gaps) / 2 * 64 * 128 / (bench.H * bench.W),
        "af_dcd_contrast": 2.5 * contrast(generated, theirs, **options),
    }
    torch.manual_seed(5)
    terms = loss(student, teacher, bench.labels())
    assert {key: float(term.detach()) for key, term in terms.items()} == pytest.approx(expected, rel=1e-9)


def test_pooling_takes_the_maximum_and_crops_to_whole_patches(bench: Any) -> None:
    student, teacher = bench.student(3, size=(11, 9)), bench.teacher(4, size=(11, 9))
    loss = bench.build("af_dcd", pool=2, patch=2, temperature=1.0, contrast_weight=1.0)
    generated = generate(loss, student.stages[-1])
    maps = []
    for features in (generated, teacher.stages[-1]):
        pooled = torch.zeros(2, bench.C_T, 4, 4, dtype=torch.float64)  # 5 x 4 after pooling, 4 x 4 after cropping
        for i in range(4):
            for j in range(4):
                pooled[:, :, i, j] = features[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].amax(dim=(2, 3))
        maps.append(pooled)
    expected = contrast(*maps, groups=2, patch=2, temperature=1.0)
    torch.manual_seed(5)
    value = loss(student, teacher, bench.labels())["af_dcd_contrast"]
    assert float(value.detach()) == pytest.approx(expected, rel=1e-9)


def test_golden(bench: Any) -> None:
    """Equal vectors: 1 positive and (M - 1) * 16 negatives cost log(1 + 16 (M - 1)) each, M of them per position."""
    loss = bench.build("af_dcd", groups=2).requires_grad_(False)
    for parameter in loss.parameters():
        parameter.zero_()
    zero = bench.teacher().map(torch.zeros_like)
    terms = loss(bench.student(3), zero, bench.labels())
    assert float(terms["af_dcd_contrast"]) == pytest.approx(0.005 * 2 * math.log(17), rel=1e-12)
    assert float(terms["af_dcd_reconstruction"]) == 0


def test_equal_vectors_have_finite_gradients(bench: Any) -> None:
    loss = bench.build("af_dcd")
    loss.generation.generator[2].weight.data.zero_()
    loss.generation.generator[2].bias.data.zero_()
    zero = bench.teacher().map(torch.zeros_like)
    loss(bench.student(3), zero, bench.labels())["af_dcd_contrast"].backward()
    assert all(bool(p.grad.isfinite().all()) for p in loss.parameters() if p.grad is not None)


def test_equal_widths_need_no_adapter(bench: Any) -> None:
    """The official code crashes there."""
    loss = bench.build("af_dcd", teacher_channels=bench.C_S)
    assert len(list(loss.parameters())) == 4
    assert bool(loss(bench.student(3), bench.student(4), bench.labels())["af_dcd_contrast"].isfinite())


def test_groups_must_divide_the_channels(bench: Any) -> None:
    with pytest.raises(UserError, match=r"losses\.af_dcd\.groups: got 4; allowed: divisors of the 6 channels"):
        bench.build("af_dcd", groups=4)


def test_a_map_smaller_than_a_patch_is_refused(bench: Any) -> None:
    with pytest.raises(UserError, match=r"losses\.af_dcd\.pool: got 2; after it, a feature map of 4 x 4"):
        bench.build("af_dcd", pool=2)(bench.student(), bench.teacher(), bench.labels())
