"""Labels from confident predictions: known answers per pixel, and thresholds of sure, unsure and absent classes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipeline.training.pseudo_labels import BINS, PseudoLabels, cross_entropy

IGNORE = 255


def labels_of(**options: float) -> PseudoLabels:
    return PseudoLabels(num_classes=3, ignore_index=IGNORE, **{"threshold": 0.9, "keep": 0.5, **options})


def logits(classes: list[int], probabilities: list[float]) -> Tensor:
    """(1, 3, 1, n): the class of each pixel has that probability, the other two share the rest."""
    rows = []
    for index, value in zip(classes, probabilities, strict=True):
        row = [(1 - value) / 2] * 3
        row[index] = value
        rows.append(row)
    return torch.tensor(rows).log().T[None, :, None]


def test_each_class_has_its_own_threshold_and_padding_no_label() -> None:
    labels = labels_of()
    labels.thresholds.copy_(torch.tensor([0.9, 0.5, 0.7]))
    predicted = logits([0, 0, 1, 1, 2, 2, 0], [0.95, 0.85, 0.55, 0.45, 0.75, 0.65, 0.99])
    assert labels(predicted).tolist() == [[[0, IGNORE, 1, IGNORE, 2, IGNORE, 0]]]
    valid = torch.tensor([[[True, True, False, True, True, True, False]]])
    assert labels(predicted, valid).tolist() == [[[0, IGNORE, IGNORE, IGNORE, 2, IGNORE, IGNORE]]]


def test_a_rarely_sure_class_keeps_half_of_its_pixels_with_the_defaults() -> None:
    """Class 0: sure nearly everywhere. Class 1: 0.41, 0.42, ... 0.50. Class 2: not predicted."""
    unsure = [0.41 + 0.01 * step for step in range(10)]
    predicted = logits([0] * 20 + [1] * 10, [0.99] * 18 + [0.6, 0.5] + unsure)
    default, fixed = labels_of(), labels_of(keep=0.0)
    for labels in (default, fixed):
        labels.choose(labels.count(predicted))
    assert default.thresholds.tolist() == pytest.approx([0.9, 0.46, 0.9], abs=1.1 / BINS)
    assert fixed.thresholds.tolist() == pytest.approx([0.9, 0.9, 0.9], abs=1.1 / BINS)
    found = default(predicted).flatten()
    assert found[:20].tolist() == [0] * 18 + [IGNORE] * 2, "threshold decides, though half would be fewer"
    assert (found[20:] == 1).sum() == 5 and (found[20:25] == IGNORE).all()
    assert (fixed(predicted).flatten()[20:] == IGNORE).all(), "one threshold for all leaves the class out"


def test_keep_all_labels_every_pixel() -> None:
    labels = labels_of(keep=1.0)
    predicted = logits([0, 1, 2], [0.4, 0.6, 0.999])
    labels.choose(labels.count(predicted))
    assert labels(predicted).flatten().tolist() == [0, 1, 2]


def test_counts_add_up_and_leave_padding_out() -> None:
    labels = labels_of()
    predicted = logits([0, 1, 1, 2], [0.5, 0.999, 0.4, 1.0 - 1e-7])
    counts = labels.count(predicted)
    expected = torch.zeros(3, BINS, dtype=torch.int64)
    expected[0, 500] = expected[1, 999] = expected[1, 400] = expected[2, 999] = 1
    where = counts.nonzero().tolist()
    assert counts.sum() == 4 and counts.shape == expected.shape
    assert [row[0] for row in where] == [0, 1, 1, 2] and [row[1] for row in where] == pytest.approx(
        [500, 400, 999, 999], abs=1
    )
    valid = torch.tensor([[[True, False, True, True]]])
    assert torch.equal(labels.count(predicted, valid).sum(dim=1), torch.tensor([1, 1, 1]))
    whole = labels_of()
    whole.choose(labels.count(predicted[..., :2]) + labels.count(predicted[..., 2:]))
    labels.choose(counts)
    assert torch.equal(whole.thresholds, labels.thresholds)


def test_cross_entropy_counts_unlabelled_pixels_in_its_divisor() -> None:
    predicted = logits([0, 1, 2, 2], [0.5, 0.25, 0.8, 0.9]).expand(2, 3, 1, 4)
    labels = torch.tensor([[[0, 1, IGNORE, IGNORE]], [[IGNORE] * 4]])
    weights = torch.tensor([2.0, 1.0, 5.0])
    options = {"ignore_index": IGNORE, "class_weights": None, "valid": None}
    plain = cross_entropy(predicted, labels, **options)  # type: ignore[arg-type]
    assert plain.tolist() == pytest.approx([(math.log(2) + math.log(4)) / 4, 0.0])
    weighted = cross_entropy(predicted, labels, **{**options, "class_weights": weights})  # type: ignore[arg-type]
    assert weighted[0].item() == pytest.approx((2 * math.log(2) + math.log(4)) / 4)
    valid = torch.tensor([[[True, True, True, False]], [[False] * 4]])
    inside = cross_entropy(predicted, labels, **{**options, "valid": valid})  # type: ignore[arg-type]
    assert inside.tolist() == pytest.approx([(math.log(2) + math.log(4)) / 3, 0.0])
    nothing = cross_entropy(predicted[:0], labels[:0], **options)  # type: ignore[arg-type]
    assert nothing.shape == (0,) and nothing.sum() == 0
