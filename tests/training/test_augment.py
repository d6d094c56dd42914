"""Augmentation against a resize of the whole frame that is cut afterwards, torchvision's colours, and colorsys."""

from __future__ import annotations

import colorsys
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from pipeline.frames import Array
from pipeline.training import augment as module
from pipeline.training.augment import Augmentation, recolour

PADDING = 254


def smooth(size: tuple[int, int], seed: int = 0) -> Array:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def ids(size: tuple[int, int]) -> Array:
    return np.random.default_rng(1).integers(0, 7, size, dtype=np.uint8)


def make(**changes: Any) -> Augmentation:
    options: dict[str, Any] = {"crop": (64, 96), "input_size": (64, 96), "scale": (1.0, 1.0), "colour": 0.0}
    return Augmentation(**{**options, **changes}, padding=PADDING)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No flip."""
    monkeypatch.setattr(module, "FLIP", 0.0)


@pytest.mark.usefixtures("plain")
def test_at_scale_one_the_crop_is_the_frame() -> None:
    frame, label = smooth((64, 96)), ids((64, 96))
    image, target = make()(frame, label, np.random.default_rng(0))
    np.testing.assert_array_equal(image, frame[:, :, ::-1].transpose(2, 0, 1))
    np.testing.assert_array_equal(target, label)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("factor", [0.5, 0.75, 1.0, 1.5, 2.0, 3.0])
def test_the_crop_is_that_of_the_resized_frame_up_to_its_edge(factor: float) -> None:
    """Every position of the window at whole pixels of the resized frame, where the two grids coincide."""
    frame, label = smooth((240, 240)), ids((240, 240))
    side = round(240 * factor)
    shrinks = factor < 1
    whole = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    whole_ids = cv2.resize(label, (side, side), interpolation=cv2.INTER_NEAREST_EXACT)
    augment = make(crop=(96, 96), input_size=(side, side))
    window, compared = round(96 / factor), 0
    # a centre between two source pixels may take either
    clear = np.ix_(*2 * [np.nonzero((np.arange(96) + 0.5) / factor % 1)[0]])
    for seed in range(40):
        image, target = augment(frame, label, np.random.default_rng(seed))
        generator = np.random.default_rng(seed)
        generator.uniform()
        top, left = (int(generator.integers(240 - window + 1)) * factor for _ in "yx")
        if top % 1 or left % 1:
            continue
        place = np.s_[int(top) : int(top) + 96, int(left) : int(left) + 96]
        np.testing.assert_array_equal(target[clear], whole_ids[place][clear])
        edge = 0 if shrinks else int(np.ceil(factor / 2))  # output pixels between the edge and the outermost centre
        inner = np.s_[edge : 96 - edge, edge : 96 - edge]
        difference = np.abs(image.transpose(1, 2, 0)[..., ::-1][inner].astype(int) - whole[place][inner])
        assert difference.max() <= 1, "rounding"
        compared += 1
    assert compared >= 2


@pytest.mark.usefixtures("plain")
def test_factor_is_relative_to_the_input_size_with_both_sides_covered() -> None:
    """90 x 160 covers 64 x 96 at a factor of 64 / 90: all rows, 135 of 160 columns, at a random position."""
    frame = np.zeros((90, 160, 3), np.uint8)
    frame[..., 1] = np.arange(160)
    starts = set()
    for seed in range(60):
        image, _ = make()(frame, frame[..., 1].copy(), np.random.default_rng(seed))
        green = image[1].astype(int)
        assert (green == green[:1]).all()
        assert green[0, -1] - green[0, 0] == pytest.approx(135 * 95 / 96, abs=1.1)
        starts.add(round(float(green[0, 0])))
    assert min(starts) <= 3 and max(starts) >= 22 and len(starts) > 15


@pytest.mark.usefixtures("plain")
def test_a_small_frame_is_placed_at_random_and_the_rest_is_ignored() -> None:
    """64 x 96 at factor 0.5 is 32 x 48; the crop has 96 x 128."""
    frame, label = smooth((64, 96)), ids((64, 96))
    places = set()
    for seed in range(30):
        image, target = make(crop=(96, 128), scale=(0.5, 0.5))(frame, label, np.random.default_rng(seed))
        rows, columns = np.nonzero(target != PADDING)
        box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert target[box].shape == (32, 48) and (target != PADDING).sum() == 32 * 48
        half = cv2.resize(frame, (48, 32), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(image.transpose(1, 2, 0)[box][..., ::-1], half)
        assert (image[:, target == PADDING] == 0).all()
        places.add((rows.min(), columns.min()))
    assert len(places) > 25


@pytest.mark.usefixtures("plain")
def test_scale_is_uniform_and_flip_and_colours_have_their_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a ramp of one grey per column, the slope gives the factor and its sign the flip."""
    ramp = np.repeat(np.arange(0, 250, dtype=np.uint8)[np.newaxis, :, np.newaxis], 250, axis=0).repeat(3, axis=2)
    label = np.ascontiguousarray(ramp[..., 0])
    augment = make(crop=(100, 100), input_size=(250, 250), scale=(0.5, 2.0))
    slopes = []
    for seed in range(400):
        image, _ = augment(ramp, label, np.random.default_rng(seed))
        slopes.append((float(image[0, 0, -1]) - float(image[0, 0, 0])) / 99)
    factors = np.sort(1 / np.array(slopes))
    expected = np.linspace(0.5, 2.0, 400)
    assert np.abs(factors - expected).max() < 0.15
    monkeypatch.setattr(module, "FLIP", 0.5)
    augment = replace(augment, colour=0.5)
    monkeypatch.setattr(module, "recolour", lambda image, **factors: np.full_like(image, 255))
    coloured, flipped = 0, 0
    for seed in range(400):
        image, target = augment(ramp, label, np.random.default_rng(seed))
        coloured += int((image == 255).all())
        flipped += int(target[0, 0] > target[0, -1])
    assert 160 <= coloured <= 240 and 160 <= flipped <= 240, "four standard deviations"


def test_image_and_target_are_flipped_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLIP", 1.0)
    frame, label = smooth((64, 96)), ids((64, 96))
    image, target = make()(frame, label, np.random.default_rng(0))
    np.testing.assert_array_equal(image, frame[:, ::-1, ::-1].transpose(2, 0, 1))
    np.testing.assert_array_equal(target, label[:, ::-1])


@pytest.mark.parametrize(
    ("name", "factors"), [("brightness", (0.875, 1.1)), ("contrast", (0.5, 1.4)), ("saturation", (0.5, 1.5))]
)
def test_colours_equal_those_of_torchvision(name: str, factors: tuple[float, float]) -> None:
    image = (smooth((40, 50)) * 0.5 + 60).astype(np.uint8)  # far from both ends: nothing is clipped
    rgb = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))
    for factor in factors:
        coloured = recolour(image, **{"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0, name: factor})
        expected = 255 * getattr(v2.functional, f"adjust_{name}")(rgb / 255, factor)
        difference = np.abs(coloured[..., ::-1].transpose(2, 0, 1).astype(float) - expected.numpy())
        assert difference.max() <= 1


def test_hue_turns_the_chroma_plane() -> None:
    """Against the standard library's YIQ, whose coefficients have two digits."""
    image = (smooth((5, 6)) * 0.4 + 70).astype(np.uint8)
    turned = recolour(image, brightness=1, contrast=1, saturation=1, hue=0.05)
    turn = np.exp(2j * np.pi * 0.05)
    for (blue, green, red), after in zip(image.reshape(-1, 3) / 255, turned.reshape(-1, 3), strict=True):
        y, i, q = colorsys.rgb_to_yiq(red, green, blue)
        chroma = (i + 1j * q) * turn
        np.testing.assert_allclose(after[::-1] / 255, colorsys.yiq_to_rgb(y, chroma.real, chroma.imag), atol=0.012)


def test_nothing_changes_at_the_neutral_point_and_greys_keep_their_hue() -> None:
    image = smooth((20, 30))
    np.testing.assert_array_equal(recolour(image, brightness=1, contrast=1, saturation=1, hue=0), image)
    grey = np.repeat(image[..., :1], 3, axis=2)
    turned = recolour(grey, brightness=1, contrast=1, saturation=1.5, hue=0.05)
    assert np.abs(turned.astype(int) - grey).max() <= 1


def test_read_only_memory_is_accepted() -> None:
    frame, label = smooth((64, 96)), ids((64, 96))
    augment = make(scale=(0.5, 2.0), colour=0.5)
    expected = [augment(frame.copy(), label.copy(), np.random.default_rng(seed)) for seed in range(8)]
    frame.setflags(write=False)
    label.setflags(write=False)
    for seed, (image, target) in enumerate(expected):
        again = augment(frame, label, np.random.default_rng(seed))
        np.testing.assert_array_equal(again[0], image)
        np.testing.assert_array_equal(again[1], target)
