"""CIRKD's three terms against plain loops, its memory against counting by hand."""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.losses import _similarity
from pipeline.losses._numerics import unit
from pipeline.losses.cirkd import first_pixels, warn_of_small_group

TAU = 0.1


def pixels(features: Tensor) -> list[list[list[float]]]:
    """Unit vectors of every pixel of every image."""
    vectors = []
    for image in features.flatten(2):
        rows = [image[:, a].tolist() for a in range(image.shape[1])]
        vectors.append([[value / math.hypot(*row) for value in row] for row in rows])
    return vectors


def kl_of_rows(s: list[float], t: list[float]) -> float:
    def log_softmax(values: list[float]) -> list[float]:
        total = math.log(sum(math.exp(value) for value in values))
        return [value - total for value in values]

    return sum(math.exp(b) * (b - a) for a, b in zip(log_softmax(s), log_softmax(t), strict=True))


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_batch_term_equals_plain_loops(bench: Any) -> None:
    student, teacher = bench.student(3), bench.teacher(4)
    f_s, f_t = pixels(student.embedding), pixels(teacher.embedding)
    total = 0.0
    for i in range(2):
        for j in range(2):
            for a in range(bench.H * bench.W):
                rows = [[dot(f[i][a], other) / TAU for other in f[j]] for f in (f_s, f_t)]
                total += kl_of_rows(*rows) / (bench.H * bench.W)
    loss = bench.build("cirkd", batch_weight=3.0, pixel_weight=0.0, region_weight=0.0)
    terms = loss(student, teacher, bench.labels())
    assert list(terms) == ["cirkd_batch"] and not list(loss.parameters())
    assert float(terms["cirkd_batch"]) == pytest.approx(3.0 * total / 4, abs=1e-9)


@pytest.mark.parametrize("temperature", [0.1, 0.2])
def test_memory_terms_equal_plain_loops(temperature: float, bench: Any) -> None:
    """With a memory that is filled by hand, and all of whose vectors are sampled."""
    student, teacher, labels = bench.student(3), bench.teacher(4), bench.labels()
    loss = bench.build(
        "cirkd", pixel_weight=0.5, region_weight=0.25, pixel_samples=100, region_samples=100,
        temperature=temperature,
    ).eval()  # fmt: skip
    for queues, seed in ((loss.pixels, 5), (loss.regions, 6)):
        vectors = torch.randn(7, bench.C_T, generator=torch.Generator().manual_seed(seed)).double()
        queues.append(unit(vectors), torch.tensor([0, 0, 1, 2, 2, 2, 1]))
    terms = loss(student, teacher, labels)
    small = labels[:, ::2, ::2].flatten(1)
    f_s, f_t = pixels(loss.projection(student.embedding).detach()), pixels(teacher.embedding)
    for term, queues, weight in (("pixel", loss.pixels, 0.5), ("region", loss.regions, 0.25)):
        references = [queues.vectors[c, slot].tolist() for c in range(3) for slot in range(int(queues.filled[c]))]
        assert len(references) == 7
        divergences = [
            kl_of_rows(*([dot(f[n][a], r) / temperature for r in references] for f in (f_s, f_t)))
            for n in range(2)
            for a in range(bench.H * bench.W)
            if int(small[n, a]) != bench.IGNORE
        ]
        expected = weight * sum(divergences) / len(divergences)
        assert float(terms[f"cirkd_{term}"].detach()) == pytest.approx(expected, abs=1e-6)


def test_contents_of_the_memory(bench: Any) -> None:
    teacher, labels = bench.teacher(4), bench.labels()
    loss = bench.build("cirkd", pixels_per_class=2)
    loss(bench.student(3), teacher, labels)
    small, vectors = labels[:, ::2, ::2].flatten(1), unit(teacher.embedding).flatten(2)
    for c in range(bench.K):
        members = [vectors[n, :, a] for n in range(2) for a in range(16) if int(small[n, a]) == c]
        counts = [int((small[n] == c).sum()) for n in range(2)]
        assert int(loss.pixels.filled[c]) == sum(min(2, count) for count in counts)
        for vector in loss.pixels.vectors[c, : int(loss.pixels.filled[c])]:
            assert any(torch.allclose(vector, member, atol=1e-12) for member in members)
        means = [vectors[n][:, small[n] == c].mean(1) for n in range(2) if counts[n]]
        assert int(loss.regions.filled[c]) == int(loss.regions.pointer[c]) == len(means)
        for vector, mean in zip(loss.regions.vectors[c], means, strict=False):
            torch.testing.assert_close(vector, mean / mean.norm())
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def test_pointers_wrap(bench: Any) -> None:
    loss = bench.build("cirkd", region_queue=3, batch_weight=0.0, pixel_weight=0.0)
    for _ in range(4):  # 8 images
        loss(bench.student(), bench.teacher(), torch.ones(2, 8, 8, dtype=torch.int64))
    assert loss.regions.pointer.tolist() == [0, 8 % 3, 0] and loss.regions.filled.tolist() == [0, 3, 0]


def test_without_training_the_memory_does_not_change(bench: Any) -> None:
    loss = bench.build("cirkd").eval()
    before = copy.deepcopy(loss.state_dict())
    terms = loss(bench.student(), bench.teacher(), bench.labels())
    assert float(terms["cirkd_pixel"].detach()) == float(terms["cirkd_region"].detach()) == 0
    assert all(torch.equal(before[key], value) for key, value in loss.state_dict().items())


def test_identity_is_zero(bench: Any) -> None:
    loss = bench.build("cirkd", teacher_channels=bench.C_S)
    loss.projection = nn.Identity()
    output = bench.student(3)
    positive = replace(output, embedding=output.embedding.abs())
    assert all(abs(float(term)) < 1e-12 for term in loss(positive, positive, bench.labels()).values())


def test_gradient_reaches_student_and_projection_only(bench: Any) -> None:
    loss = bench.build("cirkd", batch_weight=0.0)
    student = bench.student(3).map(lambda x: x.clone().requires_grad_())
    teacher = bench.teacher(4).map(lambda x: x.clone().requires_grad_())
    terms = loss(student, teacher, bench.labels())
    torch.stack(list(terms.values())).sum().backward()
    assert student.embedding.grad is not None and float(student.embedding.grad.abs().sum()) > 0
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in loss.parameters())
    assert teacher.embedding.grad is None


def test_without_labels_nothing_is_trained(bench: Any) -> None:
    """The official code gives NaN here."""
    loss = bench.build("cirkd", batch_weight=0.0)
    student = bench.student(3).map(lambda x: x.clone().requires_grad_())
    terms = loss(student, bench.teacher(4), torch.full((2, 8, 8), bench.IGNORE))
    torch.stack(list(terms.values())).sum().backward()
    assert float(student.embedding.grad.abs().max()) == 0
    assert all(float(parameter.grad.abs().max()) == 0 for parameter in loss.parameters())
    assert loss.pixels.filled.tolist() == [0, 0, 0]


def test_masking_leaves_unlabelled_pixels_out_of_the_batch_term(bench: Any) -> None:
    student, teacher, labels = bench.student(3), bench.teacher(4), bench.labels()
    loss = bench.build("cirkd", pixel_weight=0.0, region_weight=0.0, mask_ignored=True)
    hidden = (labels[:, ::2, ::2] == bench.IGNORE)[:, None]
    assert bool(hidden.any())
    moved = replace(student, embedding=torch.where(hidden, -9.0, student.embedding))
    values = [float(loss(output, teacher, labels)["cirkd_batch"]) for output in (student, moved)]
    assert values[0] == pytest.approx(values[1], abs=1e-12)


def test_pooling_comes_before_the_batch_term(bench: Any) -> None:
    student, teacher = bench.student(3), bench.teacher(4)
    pooled = [replace(output, embedding=nn.functional.avg_pool2d(output.embedding, 2)) for output in (student, teacher)]
    options = {"pixel_weight": 0.0, "region_weight": 0.0}
    value = bench.build("cirkd", pool=2, **options)(student, teacher, bench.labels())["cirkd_batch"]
    expected = bench.build("cirkd", **options)(*pooled, bench.labels())["cirkd_batch"]
    assert float(value) == pytest.approx(float(expected), abs=1e-12)


def test_anchors_can_be_limited(bench: Any) -> None:
    loss = bench.build("cirkd", max_anchors=5)
    anchors = loss.anchors(bench.labels()[:, ::2, ::2])
    assert len(anchors) == len(set(anchors.tolist())) == 5
    assert bool((bench.labels()[:, ::2, ::2].flatten()[anchors] != bench.IGNORE).all())


def test_the_official_enqueue_takes_the_first_pixels(bench: Any) -> None:
    """A class of n pixels is represented by some of the first n pixels of its image, even if of other classes."""
    flat = torch.tensor([[2, 2, 0, 1, 1, 1], [0, 0, 0, 0, 2, 2]])
    chosen = torch.tensor([3, 5, 0, 10, 11])  # image 0: class 1 (first and third), class 2 (first); image 1: class 2
    classes = flat.flatten()[chosen]
    assert first_pixels(chosen, classes, flat).tolist() == [0, 2, 0, 6, 7]
    loss = bench.build("cirkd", official_enqueue=True, region_weight=0.0)
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[0, 3, 2:] = 1  # the last two pixels of the image
    teacher = bench.teacher(4, images=1)
    loss(bench.student(3, images=1), teacher, labels)
    first_two = unit(teacher.embedding).flatten(2)[0, :, :2].T
    stored = loss.pixels.vectors[1, :2]
    assert all(any(torch.allclose(vector, first) for first in first_two) for vector in stored)


def test_sampling_depends_on_seed_and_step_alone(bench: Any) -> None:
    """Same state, other random state: the memory terms are the same, as they must be in every process."""

    def value(*, seed: int, step: int, random: int) -> float:
        loss = bench.build("cirkd", seed=seed).eval()
        vectors = torch.randn(8, bench.C_T, generator=torch.Generator().manual_seed(5)).double()
        loss.pixels.append(vectors, torch.tensor([0] * 8))
        loss.updates.fill_(step)
        torch.manual_seed(random)
        return float(loss(bench.student(3), bench.teacher(4), bench.labels())["cirkd_pixel"].detach())

    first = value(seed=0, step=1, random=0)
    assert first == value(seed=0, step=1, random=1)
    assert len({first, value(seed=0, step=2, random=0), value(seed=1, step=1, random=0)}) == 3
    assert value(seed=2**40, step=1, random=0) > 0  # any seed of params.yaml


@pytest.mark.parametrize(("images", "warnings"), [(1, 1), (2, 1), (4, 0)])
def test_a_group_larger_than_the_images_at_hand_is_one_warning(
    images: int, warnings: int, bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_small_group.cache_clear()
    loss = bench.build("cirkd", relation_group=3, pixel_weight=0.0, region_weight=0.0)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            loss(bench.student(images=images), bench.teacher(images=images), bench.labels(images=images))
    assert len(caplog.records) == warnings
    for record in caplog.records:
        text = record.getMessage()
        assert text.startswith(f"losses.cirkd.relation_group: got 3, but a part of a batch has {images} image")
        assert text.endswith(f"or set relation_group: {images}") and "\n" not in text


class Waits(TorchDispatchMode):
    """Names of the operators for which the host must wait for a GPU: shapes and numbers that depend on values."""

    ALWAYS = ("aten.nonzero", "aten.bincount", "aten._local_scalar_dense", "aten.masked_select", "aten.unique")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
        masks = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)
        if masks or str(function).startswith(self.ALWAYS):
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_gpu_is_waited_for_six_times(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Present classes, pixels to store, labelled pixels, the step of the draw, filled slots of two memories."""
    loss = bench.build("cirkd", pixel_queue=100, region_queue=50)
    monkeypatch.setattr(_similarity, "device_of", lambda _: torch.device("cuda"))
    for _ in range(2):
        with Waits() as waits:
            loss(bench.student(), bench.teacher(), bench.labels())
        assert len(waits.names) == 6, waits.names


def test_golden(bench: Any) -> None:
    terms = bench.build("cirkd")(bench.student(3), bench.teacher(4), bench.labels())  # build seeds the choice of pixels
    golden = {"cirkd_batch": 4.7686974, "cirkd_pixel": 0.6035022, "cirkd_region": 0.5122548}
    assert {name: float(term.detach()) for name, term in terms.items()} == pytest.approx(golden, abs=1e-6)
