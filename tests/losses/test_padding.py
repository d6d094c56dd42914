"""Padding takes no part in any loss: neither its values nor its number matter, and it gets no gradient."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import losses
from pipeline.losses._padding import filled, inside, mean, whole
from pipeline.models import SegOutput

TEACHING = [name for name in losses.available() if name != "none"]
#: Options that select another path of a loss.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in TEACHING),
    ("pfs", {"metric": "l2", "pool": 2}),
    ("pfs", {"gap": "l1", "normalizer": "pixels"}),
    ("skd", {"mode": "grid"}),
    ("cwd", {"feature_weight": 50.0}),
    ("cwd", {"feature_weight": 50.0, "normalize": "channels"}),
    ("fitnet", {"normalize": "channels"}),
    ("fitnet", {"normalize": "none"}),
    ("fitnet", {"adapter": "norm"}),
    ("cwd", {"feature_weight": 50.0, "adapter": "norm"}),
    ("mgd", {"normalize": "teacher"}),
    ("mgd", {"adapter": "norm"}),
    ("idd", {"normalize": "channels"}),
    ("idd", {"adapter": "norm"}),
    ("idd", {"position_weight": 1.0}),
    ("i2ckd", {"layers": ["stage1", "stage2", "embedding"]}),
    ("aicsd", {"adaptive": False, "scope": "batch"}),
    ("cirkd", {"mask_ignored": True, "pool": 2}),
    ("af_dcd", {"feature": "embedding"}),
]
#: Their value for a crop is exactly that for its frame. The others: `cirkd` and an adapter with batch norm count
#: padding as zeros there, `mgd` and `af_dcd` draw random positions, and a grid divides the crop.
INEXACT = {"cirkd", "mgd", "af_dcd"}
OWN_SIZE = ("mode", "adapter")
EXACT: list[tuple[str, dict[str, Any]]] = [
    *((name, options) for name, options in VARIANTS if name not in INEXACT and options.keys().isdisjoint(OWN_SIZE)),
    ("cirkd", {"pixel_weight": 0.0, "region_weight": 0.0}),
]
ROWS, COLUMNS = slice(4, 8), slice(0, 4)  # of an 8 x 8 embedding: the frame of the last image


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def frame_of(x: Tensor) -> Tensor:
    """The frame in a map of the last image, at any resolution."""
    factor = x.shape[-1] // 8
    rows, columns = (slice(factor * part.start, factor * part.stop) for part in (ROWS, COLUMNS))
    return x[-1:, ..., rows, columns]


def padded(bench: Any, *, images: int = 2) -> tuple[SegOutput, SegOutput, Tensor]:
    """Student, teacher and labels (images, 16, 16); the last image has padding around its frame."""
    labels = bench.labels(size=(16, 16), images=images)
    valid = torch.ones(images, 16, 16, dtype=torch.bool)
    valid[-1] = False
    frame_of(valid)[:] = True
    labels = labels.where(valid, torch.tensor(bench.IGNORE))
    outputs = (make(size=(8, 8), images=images) for make in (bench.student, bench.teacher))
    student, teacher = (replace(output, valid=valid) for output in outputs)
    return student, teacher, labels


def other_padding(output: SegOutput) -> SegOutput:
    """The same with other values where no frame is."""

    def change(x: Tensor) -> Tensor:
        changed = x.clone()
        changed[-1] = 5 - 3 * x[-1]
        frame_of(changed)[:] = frame_of(x)
        return changed

    return output.map(change)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_what_padding_shows_does_not_matter(name: str, options: dict[str, Any], bench: Any) -> None:
    loss = bench.build(name, **options)
    student, teacher, labels = padded(bench)

    def terms(*outputs: SegOutput) -> dict[str, Tensor]:
        torch.manual_seed(0)  # masks and samples are drawn again
        own: dict[str, Tensor] = copy.deepcopy(loss)(*outputs, labels)
        return own

    expected, changed = terms(student, teacher), terms(other_padding(student), other_padding(teacher))
    for key, term in expected.items():
        torch.testing.assert_close(changed[key], term, rtol=1e-9, atol=1e-12)
    probe = student.map(lambda x: x.clone().requires_grad_())
    total(terms(probe, teacher)).backward()
    gradients = [x.grad for x in (probe.logits, probe.embedding, *probe.stages) if x.grad is not None]
    assert gradients and any(bool(frame_of(gradient).any()) for gradient in gradients)
    for gradient in gradients:
        frame_of(gradient)[:] = 0
        assert bool(gradient.isfinite().all()) and not bool(gradient[-1].any()), "padding has a gradient"


@pytest.mark.parametrize(("name", "options"), EXACT)
def test_the_value_is_that_of_the_frame_alone(name: str, options: dict[str, Any], bench: Any) -> None:
    student, teacher, labels = padded(bench, images=1)
    loss = bench.build(name, **options)
    if name == "idd":  # where in the crop a pixel is
        loss.position_weight = 0.0
    alone = (replace(output.map(frame_of), valid=None) for output in (student, teacher))
    expected = copy.deepcopy(loss)(*alone, frame_of(labels))
    for key, term in copy.deepcopy(loss)(student, teacher, labels).items():
        torch.testing.assert_close(term, expected[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), [(n, options) for n, options in EXACT if "layers" not in options])
def test_a_cell_that_shows_some_padding_takes_no_part(name: str, options: dict[str, Any], bench: Any) -> None:
    """Also where its label, which is that of one pixel, is of the frame: a frame seldom ends with a whole cell."""
    loss, labels = bench.build(name, **options), bench.labels(size=(16, 16))
    student, teacher = bench.student(size=(8, 8)), bench.teacher(size=(8, 8))

    def terms(rows: int, columns: int) -> dict[str, Tensor]:
        valid = torch.ones(2, 16, 16, dtype=torch.bool)
        valid[-1, rows:], valid[-1, :, columns:] = False, False
        outputs = (replace(output, valid=valid) for output in (student, teacher))
        own: dict[str, Tensor] = copy.deepcopy(loss)(*outputs, labels.where(valid, torch.tensor(bench.IGNORE)))
        return own

    expected = terms(6, 8)
    for key, term in terms(7, 9).items():
        torch.testing.assert_close(term, expected[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_an_image_of_padding_alone_stays_finite(name: str, options: dict[str, Any], bench: Any) -> None:
    student, teacher, labels = padded(bench)
    valid = student.valid.clone() if student.valid is not None else None
    assert valid is not None
    valid[0] = False
    student = replace(student.map(lambda x: x.clone().requires_grad_()), valid=valid)
    value = total(bench.build(name, **options)(student, replace(teacher, valid=valid), labels.where(valid, 255)))
    value.backward()
    gradients = [x.grad for x in (student.logits, student.embedding, *student.stages) if x.grad is not None]
    assert bool(value.isfinite()) and all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("name", ["kd", "fitnet", "cwd", "skd", "ifvd"])
def test_halves_of_a_batch_with_padding_average_to_the_whole(name: str, bench: Any) -> None:
    """Processes divide a batch as they like, also when some get more padding."""
    options = {"normalize": "none"} if name == "fitnet" else {}  # its statistics are those of the batch
    loss, (student, teacher, labels) = bench.build(name, **options), padded(bench)
    valid = student.valid
    assert valid is not None
    halves = []
    for part in (slice(0, 1), slice(1, 2)):
        outputs = (replace(x.map(lambda y, part=part: y[part]), valid=valid[part]) for x in (student, teacher))
        halves.append(float(total(loss(*outputs, labels[part])).detach()))
    assert sum(halves) / 2 == pytest.approx(float(total(loss(student, teacher, labels))), rel=1e-9)


def test_pixels_of_the_frame_without_a_label_take_part(bench: Any) -> None:
    """The teacher has an opinion on them."""
    student, teacher, labels = padded(bench)
    for name in ("kd", "fitnet", "cwd", "at"):
        loss = bench.build(name)
        labelled, void = (loss(student, teacher, ids) for ids in (labels, torch.full_like(labels, bench.IGNORE)))
        assert {k: float(v) for k, v in void.items()} == {k: float(v) for k, v in labelled.items()}


def test_positions_count_when_their_whole_cell_shows_the_frame() -> None:
    valid = torch.zeros(1, 8, 8, dtype=torch.bool)
    valid[:, 1:, :5] = True  # rows 1 to 7, columns 0 to 4
    output = SegOutput(logits=torch.zeros(1, 2, 4, 4), embedding=torch.zeros(1, 2, 4, 4), valid=valid)
    expected = torch.tensor([[False] * 4, *[[True, True, False, False]] * 3])
    positions = inside(output, output.logits)
    assert positions is not None and torch.equal(positions[0], expected)
    squares = whole(positions, 2, ceil_mode=True)
    assert squares is not None and squares[0].tolist() == [[False, False], [True, False]]
    assert inside(replace(output, valid=None), output.logits) is None and whole(None, 2, ceil_mode=True) is None
    assert float(mean(positions.double()[:, None] + 1, positions)) == 2.0
    assert float(filled(torch.ones(1, 2, 4, 4), positions).sum()) == 2 * 6
