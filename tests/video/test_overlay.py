from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import Array, resize_label_map
from pipeline.labels import LabelSpec
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.drawing.picture import Box, Picture, Yuv
from pipeline.video.pixels import count_ids


def draw(overlay: Overlay, picture: Picture, label_map: Array, box: Box | None = None) -> Picture:
    return overlay.draw(picture, label_map, box=box or Box(0, 0, *picture.size), pixels=count_ids(label_map))


def draw_bgr(overlay: Overlay, frame: Array, label_map: Array) -> Array:
    return draw(overlay, Picture.of_bgr(frame), label_map).bgr()


def plain(frame: Array, label_map: Array, labels: LabelSpec, alpha: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The reference: colours by fancy index at frame size, blended in float64, not rounded."""
    ids = resize_label_map(label_map, (frame.shape[0], frame.shape[1]))
    colours = labels.lookup_bgr()[ids, 0]
    blended = (1 - alpha) * frame + alpha * colours.astype(np.float64)
    return np.where((ids < labels.num_classes)[..., None], blended, frame)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [0, 1, 255, 7]])
@pytest.mark.parametrize("size", [(12, 16), (48, 64), (91, 33), (6, 5)])
def test_equals_plain_numpy(labels: LabelSpec, alpha: float, ids: list[int], size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    frame = random.integers(0, 256, (*size, 3), np.uint8)
    label_map = random.choice(np.array(ids, np.uint8), (12, 16))
    before = frame.copy()
    picture = draw_bgr(Overlay(labels, alpha=alpha), frame, label_map)
    assert abs(picture - plain(frame, label_map, labels, alpha)).max() <= 0.501, "rounded, ties either way"
    assert np.array_equal(frame, before)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_out_of_range(labels: LabelSpec, alpha: float) -> None:
    with pytest.raises(UserError, match=r"alpha is .*; allowed: 0"):
        Overlay(labels, alpha=alpha)


def test_counts() -> None:
    label_map = np.random.default_rng(1).integers(0, 256, (33, 47), np.uint8)
    assert np.array_equal(count_ids(label_map), np.bincount(label_map.ravel(), minlength=256))


def test_legend_names_what_occurs(labels: LabelSpec) -> None:
    frame = np.full((270, 480, 3), 128, np.uint8)
    label_map = np.ones((27, 48), np.uint8)
    without = draw_bgr(Overlay(labels, alpha=0.5), frame, label_map)
    picture = draw_bgr(Overlay(labels, alpha=0.5, legend=True), frame, label_map)
    changed = np.flatnonzero((picture != without).any(axis=(1, 2)))
    assert changed.size
    assert changed.min() > 270 * 2 // 3, "the legend stays in the lower third"
    assert (picture == np.array([0, 200, 0])).all(axis=2).any(), "the swatch of class 1 has its full colour"
    assert not (picture == np.array([0, 0, 200])).all(axis=2).any(), "class 0 does not occur"


@pytest.mark.parametrize("size", [(20, 30), (40, 170), (1080, 1920)])
def test_legend_with_many_classes_fits_any_size(size: tuple[int, int]) -> None:
    many = LabelSpec(names=tuple(f"class number {i}" for i in range(150)), palette=((9, 9, 9),) * 150)
    label_map = np.arange(150, dtype=np.uint8).reshape(10, 15)
    picture = draw_bgr(Overlay(many, legend=True), np.zeros((*size, 3), np.uint8), label_map)
    assert picture.shape == (*size, 3)


def noisy_yuv(size: tuple[int, int], yuv: Yuv) -> Picture:
    random = np.random.default_rng(3)
    half = (size[0] // 2, size[1] // 2)
    # chroma near grey and middle luma: nothing leaves the range of colours
    planes = (random.integers(80, 160, size, np.uint8), *(random.integers(110, 146, half, np.uint8) for _ in range(2)))
    return Picture(planes, yuv)


@pytest.mark.parametrize("yuv", [Yuv(matrix=1), Yuv(matrix=6, full_range=True)])
@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [0, 1, 255, 7]])
def test_planes_of_yuv_are_blended_like_bgr(labels: LabelSpec, yuv: Yuv, ids: list[int]) -> None:
    picture = noisy_yuv((48, 64), yuv)
    before = [plane.copy() for plane in picture.planes]
    label_map = np.random.default_rng(0).choice(np.array(ids, np.uint8), (12, 16))  # 4x4 pixels each: chroma fits
    drawn = draw(Overlay(labels, alpha=0.5), picture, label_map)
    assert drawn.yuv == yuv
    expected = plain(picture.bgr(), label_map, labels, 0.5).astype(int)
    # chroma is interpolated across the borders of classes: their pixels are left out
    inside = np.zeros((48, 64), bool)
    inside.reshape(12, 4, 16, 4)[:, 1:3, :, 1:3] = True
    assert abs(drawn.bgr().astype(int) - expected)[inside].max() <= 4
    assert all(np.array_equal(a, b) for a, b in zip(before, picture.planes, strict=True))


def test_only_these_classes(labels: LabelSpec, frame: Array) -> None:
    label_map = np.tile(np.arange(4, dtype=np.uint8).repeat(4), (12, 1))  # a quarter of the width each
    picture = draw_bgr(Overlay(labels, alpha=1.0, only=[2]), frame, label_map)
    assert (picture[:, 32:48] == labels.palette[2][::-1]).all()
    assert np.array_equal(np.delete(picture, slice(32, 48), axis=1), np.delete(frame, slice(32, 48), axis=1))


def test_part_of_a_frame(labels: LabelSpec) -> None:
    for picture in (Picture.of_bgr(np.full((48, 64, 3), 90, np.uint8)), noisy_yuv((48, 64), Yuv())):
        drawn = draw(Overlay(labels, alpha=1.0), picture, np.zeros((3, 4), np.uint8), Box(8, 16, 24, 32))
        changed = (drawn.planes[0] != picture.planes[0]).reshape(48, 64, -1).any(axis=2)
        assert changed[8:32, 16:48].mean() > 0.9
        changed[8:32, 16:48] = False
        assert not changed.any()


def test_side_by_side(labels: LabelSpec) -> None:
    for picture in (Picture.of_bgr(np.full((48, 64, 3), 90, np.uint8)), noisy_yuv((48, 64), Yuv())):
        label_map = np.zeros((3, 4), np.uint8)
        drawn = draw(Overlay(labels, side_by_side=True), picture, label_map)
        single = draw(Overlay(labels), picture, label_map)
        assert drawn.size == (48, 128)
        for plane, left, right in zip(drawn.planes, picture.planes, single.planes, strict=True):
            assert np.array_equal(plane, np.hstack([left, right]))


def test_legend_of_video(labels: LabelSpec) -> None:
    picture = noisy_yuv((270, 480), Yuv(matrix=1))
    overlay = Overlay(labels, legend=True)
    first = draw(overlay, picture, np.ones((27, 48), np.uint8)).bgr().astype(int)
    assert (abs(first - np.array([0, 200, 0])).max(axis=2) <= 12).sum() > 20, "the swatch of class 1"
    assert not (abs(first - np.array([0, 0, 200])).max(axis=2) <= 12).any(), "class 0 did not occur yet"
    draw(overlay, picture, np.zeros((27, 48), np.uint8))
    third = draw(overlay, picture, np.ones((27, 48), np.uint8)).bgr().astype(int)
    assert (abs(third - np.array([0, 0, 200])).max(axis=2) <= 12).sum() > 20, "what occurred stays in the legend"
