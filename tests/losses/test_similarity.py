"""The blocked kernels against whole matrices and plain loops; those of GPUs too, here on a CPU."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.losses import _gpu_blocks, _similarity
from pipeline.losses._numerics import unit
from pipeline.losses._similarity import block_budget, gram_distance, reference_kl, relation_kl

DEVICES = ["cpu", "cuda"]  # whose blocks are tested


def blocks_of(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in the blocks of this device from now on."""
    monkeypatch.setattr(_similarity, "device_of", lambda _: torch.device(device))


def with_rows(rows: int, *, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of so many rows of float64 similarities, on each device."""
    for device, buffers in (("cpu", _similarity.BUFFERS), ("cuda", _gpu_blocks.BUFFERS)):
        monkeypatch.setitem(_similarity.BUDGET, device, rows * columns * 8 * buffers)


def features(images: int, channels: int, pixels: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, channels, pixels, generator=generator, dtype=torch.float64)


def double_loop(student: Tensor, teacher: Tensor, *, temperature: float, group: int, valid: Tensor) -> Tensor:
    """Formula of the paper, image pair by image pair, under plain autograd."""
    images, total = len(student), torch.zeros((), dtype=torch.float64)
    for first in range(0, images, group):
        part = [i for i in range(first, min(first + group, images)) if bool(valid[i].any())]
        for i in part:
            for j in part:
                s = student[i][:, valid[i]].T @ student[j][:, valid[j]] / temperature
                t = teacher[i][:, valid[i]].T @ teacher[j][:, valid[j]] / temperature
                rows = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1)
                total = total + rows.mean() / len(part) ** 2 * min(group, images - first) / images
    return total


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
@pytest.mark.parametrize(("images", "group"), [(1, 2), (2, 2), (3, 2), (4, 1), (3, 3)])
@pytest.mark.parametrize("rows", [16, 10**6])  # small blocks and one block
@pytest.mark.parametrize("device", DEVICES)
def test_relations_equal_the_double_loop(
    temperature: float, images: int, group: int, rows: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_rows(rows, columns=min(group, images) * 17, monkeypatch=monkeypatch)
    blocks_of(device, monkeypatch)
    raw, teacher = features(images, 5, 17, 1).requires_grad_(), unit(features(images, 3, 17, 2))
    result = relation_kl(unit(raw), teacher, temperature=temperature, group=group)
    every = torch.ones(images, 17, dtype=torch.bool)
    expected = double_loop(unit(raw), teacher, temperature=temperature, group=group, valid=every)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, raw)[0] for value in (result, expected)), rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("group", [2, 3, 4])
@pytest.mark.parametrize("device", DEVICES)
def test_masked_pixels_take_no_part(
    temperature: float, group: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_rows(16, columns=group * 9, monkeypatch=monkeypatch)
    blocks_of(device, monkeypatch)
    raw, teacher = features(4, 5, 9, 1).requires_grad_(), unit(features(4, 3, 9, 2))
    valid = torch.rand(4, 9, generator=torch.Generator().manual_seed(3)) > 0.4
    valid[3] = False  # an image without a label
    result = relation_kl(unit(raw), teacher, temperature=temperature, group=group, valid=valid)
    nothing = relation_kl(unit(raw), teacher, temperature=temperature, group=group, valid=torch.zeros_like(valid))
    expected = double_loop(unit(raw), teacher, temperature=temperature, group=group, valid=valid)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)
    gradient, reference = (torch.autograd.grad(value, raw)[0] for value in (result, expected))
    torch.testing.assert_close(gradient, reference, rtol=1e-8, atol=1e-10)
    assert float(nothing) == 0 and float(torch.autograd.grad(nothing, raw)[0].abs().max()) == 0


def test_relations_by_hand() -> None:
    """One image of two pixels at right angles for the student, equal for the teacher."""
    student = torch.eye(2, dtype=torch.float64)[None]
    teacher = torch.tensor([[[1.0, 1.0]]], dtype=torch.float64)
    p = 1 / (1 + math.exp(-1))  # a pixel's share of itself, student
    golden = 0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p))
    assert float(relation_kl(student, teacher, temperature=1.0)) == pytest.approx(golden, abs=1e-12)


class TestInvariances:
    teacher = unit(features(2, 3, 12, 2))

    def value(self, student: Tensor, **options: Any) -> float:
        return float(relation_kl(unit(student), self.teacher, temperature=0.1, group=2, **options))

    def test_identity_is_zero_for_any_width(self) -> None:
        padded = torch.cat([self.teacher, torch.zeros(2, 4, 12, dtype=torch.float64)], dim=1)
        assert abs(self.value(padded)) < 1e-12

    def test_scale_rotation_and_order_change_nothing(self) -> None:
        student = features(2, 5, 12, 1)
        rotation = torch.linalg.qr(features(1, 5, 5, 4)[0])[0]
        assert self.value(7 * student) == pytest.approx(self.value(student), abs=1e-12)
        assert self.value(rotation @ student) == pytest.approx(self.value(student), abs=1e-12)
        swapped = float(relation_kl(unit(student.flip(0)), self.teacher.flip(0), temperature=0.1, group=2))
        assert swapped == pytest.approx(self.value(student), abs=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_float32_agrees_with_float64(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks_of(device, monkeypatch)
    student, teacher = unit(features(2, 8, 50, 1)), unit(features(2, 8, 50, 2))
    for temperature in (0.1, 0.025, 0.01, 0.005):
        wide = relation_kl(student, teacher, temperature=temperature, group=2)
        narrow = relation_kl(student.float(), teacher.float(), temperature=temperature, group=2)
        assert float(narrow) == pytest.approx(float(wide), rel=2e-4)


@pytest.mark.parametrize("rows", [16, 10**6])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("device", DEVICES)
def test_references_equal_plain_autograd(
    rows: int, temperature: float, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_rows(rows, columns=11, monkeypatch=monkeypatch)
    blocks_of(device, monkeypatch)
    raw = features(1, 4, 37, 1)[0].T.clone().requires_grad_()
    teacher, references = unit(features(1, 4, 37, 2)[0].T, dim=1), unit(features(1, 4, 11, 3)[0].T, dim=1)
    result = reference_kl(unit(raw), teacher, references, temperature=temperature)
    s, t = (x @ references.T / temperature for x in (unit(raw), teacher))
    expected = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, raw)[0] for value in (result, expected)), rtol=1e-8, atol=1e-10
    )


def test_no_anchor_or_no_reference_is_a_connected_zero() -> None:
    raw = torch.randn(3, 4, requires_grad=True)
    for rows, references in ((raw[:0], torch.randn(2, 4)), (raw, torch.randn(0, 4))):
        value = reference_kl(rows, rows.detach(), references, temperature=0.1)
        assert float(value) == 0 and float(torch.autograd.grad(value, raw)[0].abs().sum()) == 0


def test_gram_distance_equals_the_whole_maps() -> None:
    raw, teacher = features(2, 5, 9, 1).requires_grad_(), unit(features(2, 3, 9, 2))
    student = unit(raw)
    expected = (student.transpose(1, 2) @ student - teacher.transpose(1, 2) @ teacher).square().mean()
    result = gram_distance(student, teacher)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(v, raw, retain_graph=True)[0] for v in (result, expected)))
    assert abs(float(gram_distance(teacher, teacher))) < 1e-12


def test_blocks_stay_within_the_budget() -> None:
    rows = torch.zeros(8192, 4)
    tiles = _similarity._tiles(rows, [(0, 5000), (5000, 8192)])
    assert [tile for tile in tiles if tile[1] < 5000 < tile[2]] == []
    assert [a for _, a, _ in tiles[1:]] + [8192] == [b for _, _, b in tiles]
    assert max(b - a for _, a, b in tiles) * 8192 * 4 * _similarity.BUFFERS <= _similarity.BUDGET["cpu"]


def test_blocks_of_a_gpu_follow_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, memory = torch.device("cuda", 0), {"total_memory": 0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(**memory))
    for gib, expected in ((8, 128 * 2**20), (16, 256 * 2**20), (139, 512 * 2**20)):
        memory["total_memory"] = gib * 2**30
        assert block_budget(cuda) == expected
    assert block_budget(torch.device("cpu")) == _similarity.BUDGET["cpu"]


@pytest.mark.gpu
@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("masked", [False, True])
def test_a_gpu_gives_the_same_values_and_gradients(temperature: float, masked: bool) -> None:
    """Compiled and in TensorFloat-32, against float64 on the CPU."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    raw, teacher = features(5, 64, 300, 1).requires_grad_(), unit(features(5, 128, 300, 2))
    valid = torch.rand(5, 300, generator=torch.Generator().manual_seed(3)) > 0.1 if masked else None
    expected = relation_kl(unit(raw), teacher, temperature=temperature, group=2, valid=valid)
    gradient = torch.autograd.grad(expected, raw)[0]
    on_gpu = raw.detach().float().cuda().requires_grad_()
    result = relation_kl(
        unit(on_gpu), teacher.float().cuda(), temperature=temperature, group=2,
        valid=None if valid is None else valid.cuda(),
    )  # fmt: skip
    assert float(result) == pytest.approx(float(expected), rel=5e-3)
    error = torch.autograd.grad(result, on_gpu)[0].cpu().double() - gradient
    assert float(error.norm()) < 1e-2 * float(gradient.norm())
