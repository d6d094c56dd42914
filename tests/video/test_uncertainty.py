"""The overlay of uncertainty: its colours at known confidence, unchanged pixels, and the scale."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.frames import Array, resize_label_map
from pipeline.labels import LabelSpec
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.drawing.picture import BT709, Box, Picture, Yuv
from pipeline.video.drawing.uncertainty import Scale, heat_colours, opacities
from pipeline.video.loop import segment
from pipeline.video.pixels import count_ids
from pipeline.video.zone_file import Zone
from pipeline.video.zones import Zones
from tests.video.fakes import Bars, BrightnessEngine, Kept, quarters

BONNET = Zone("bonnet", ((0, 0.5), (1, 0.5), (1, 1), (0, 1)), unit="shares", ignored=True)


def draw(overlay: Overlay, picture: Picture, label_map: Array, confidence: Array, **options: Any) -> Picture:
    box = options.pop("box", Box(0, 0, *picture.size))
    return overlay.draw(picture, label_map, box=box, pixels=count_ids(label_map), confidence=confidence, **options)


def warm(frame: Array, confidence: Array, alpha: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The reference: (H, W, 3) in float64, not rounded."""
    whole = resize_label_map(confidence, (frame.shape[0], frame.shape[1]))
    unsure = 1 - whole[..., np.newaxis] / 255
    opacity = alpha * np.minimum(1, 2 * unsure)
    heat = np.asarray(cv2.applyColorMap(255 - whole, cv2.COLORMAP_INFERNO), np.float64)
    return np.asarray((1 - opacity) * frame + opacity * heat, np.float64)


def test_the_colours() -> None:
    table = heat_colours()[:, 0].astype(int)
    assert table.shape == (256, 3)
    assert table[255].max() < 8 and table[0].min() > 150, "from bright, unsure, to black"
    brightness = table @ [0.0722, 0.7152, 0.2126]
    assert (np.diff(brightness) <= 0.5).all(), "it falls evenly"
    opacity = opacities(0.8)
    assert opacity[255] == 0 and (opacity[:128] == 0.8).all()
    assert (np.diff(opacity[127:]) < 0).all()
    assert opacity[191] == pytest.approx(0.8 * 2 * 64 / 255)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("size", [(12, 16), (48, 64), (91, 33), (6, 5)])
def test_equals_plain_numpy(labels: LabelSpec, alpha: float, size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    frame = random.integers(0, 256, (*size, 3), np.uint8)
    label_map = random.integers(0, 4, (12, 16), np.uint8)
    confidence = random.integers(0, 256, (12, 16), np.uint8)
    before = frame.copy()
    drawn = draw(Overlay(labels, alpha=alpha, uncertainty=True), Picture.of_bgr(frame), label_map, confidence).bgr()
    # three roundings: the share of the frame, 0 to 255, its product, and the colour
    assert abs(drawn - warm(frame, confidence, alpha)).max() <= 1.51
    assert np.array_equal(frame, before)
    assert np.array_equal(drawn[:1, :1], frame[:1, :1]) or alpha > 0


@pytest.mark.parametrize("yuv", [Yuv(matrix=BT709), Yuv(matrix=6, full_range=True)])
def test_planes_of_yuv_are_blended_like_bgr(labels: LabelSpec, yuv: Yuv) -> None:
    random = np.random.default_rng(3)
    chroma = (random.integers(110, 146, (24, 32), np.uint8) for _ in range(2))
    picture = Picture((random.integers(80, 160, (48, 64), np.uint8), *chroma), yuv)
    before = [plane.copy() for plane in picture.planes]
    label_map = np.zeros((12, 16), np.uint8)  # 4x4 pixels each: chroma fits
    confidence = random.choice(np.array([0, 51, 128, 191, 230, 255], np.uint8), (12, 16))
    drawn = draw(Overlay(labels, uncertainty=True), picture, label_map, confidence)
    assert drawn.yuv == yuv
    expected = warm(picture.bgr(), confidence, 0.5)
    inside = np.zeros((48, 64), bool)  # chroma is interpolated across borders
    inside.reshape(12, 4, 16, 4)[:, 1:3, :, 1:3] = True
    assert abs(drawn.bgr() - expected)[inside].max() <= 5
    assert all(np.array_equal(a, b) for a, b in zip(before, picture.planes, strict=True))
    sure = draw(Overlay(labels, uncertainty=True), picture, label_map, np.full_like(label_map, 255))
    assert all(np.array_equal(a, b) for a, b in zip(before, sure.planes, strict=True)), "sure pixels stay as they are"


@pytest.mark.parametrize("only", [None, [1]])
def test_pixels_without_a_wanted_class_stay_plain(labels: LabelSpec, only: list[int] | None) -> None:
    frame = np.full((12, 16, 3), 90, np.uint8)
    label_map = np.tile(np.array([0, 1, 255, 9], np.uint8).repeat(4), (12, 1))
    overlay = Overlay(labels, alpha=1.0, uncertainty=True, only=only)
    drawn = draw(overlay, Picture.of_bgr(frame), label_map, np.full_like(label_map, 51)).bgr()
    tinted = {0: only is None, 1: True, 255: False, 9: False}
    for index, is_tinted in tinted.items():
        expected = warm(frame, np.full_like(label_map, 51), 1.0) if is_tinted else frame
        assert abs(drawn - expected)[label_map == index].max() <= 1.51


def test_part_of_a_frame(labels: LabelSpec) -> None:
    for picture in (
        Picture.of_bgr(np.full((48, 64, 3), 90, np.uint8)),
        Picture((np.full((48, 64), 90, np.uint8), *(np.full((24, 32), 120, np.uint8) for _ in range(2))), Yuv()),
    ):
        overlay, box = Overlay(labels, alpha=1.0, uncertainty=True), Box(8, 16, 24, 32)
        drawn = draw(overlay, picture, np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8), box=box)
        changed = (drawn.planes[0] != picture.planes[0]).reshape(48, 64, -1).any(axis=2)
        assert changed[8:32, 16:48].all()
        changed[8:32, 16:48] = False
        assert not changed.any()


@pytest.mark.parametrize("uncertainty", [False, True])
def test_ignored_zones_stay_plain(labels: LabelSpec, uncertainty: bool) -> None:
    class Unsure(BrightnessEngine):
        gives_confidence = True

        def run_with_confidence(self, frames: Array) -> tuple[Array, Array]:
            label_maps = self.run(frames)
            return label_maps, np.full_like(label_maps, 40)

    sink = Kept()
    zones = Zones([BONNET], ignore_index=255)
    # without outlines: the overlay does not get the zones
    overlay = Overlay(labels, uncertainty=uncertainty)
    segment(Bars(1), [Unsure()], labels=labels, sinks=[sink], zones=zones, overlay=overlay)
    picture = sink.results[0].picture
    assert picture is not None
    assert np.array_equal(picture.bgr()[24:], quarters()[24:])
    assert (picture.bgr()[:24] != quarters()[:24]).any(axis=2).mean() > 0.9


def test_side_by_side_and_zones(labels: LabelSpec) -> None:
    picture = Picture.of_bgr(np.full((48, 64, 3), 90, np.uint8))
    label_map = np.zeros((12, 16), np.uint8)
    drawn = draw(Overlay(labels, uncertainty=True, side_by_side=True), picture, label_map, label_map).bgr()
    assert drawn.shape == (48, 128, 3)
    assert (drawn[:, :64] == 90).all() and (drawn[:, 64:] != 90).any(axis=2).all()
    zones = Zones([BONNET], ignore_index=255)
    outlined = draw(Overlay(labels, alpha=0.0, uncertainty=True, zones=zones), picture, label_map, label_map).bgr()
    assert (outlined[24, 20:40] == 160).all(), "the outline of the zone"


@pytest.mark.parametrize("yuv", [None, Yuv(matrix=BT709)])
def test_the_legend_is_the_scale(labels: LabelSpec, yuv: Yuv | None) -> None:
    shapes = [(270, 480, 3)] if yuv is None else [(270, 480), (135, 240), (135, 240)]
    planes = tuple(np.full(shape, 128, np.uint8) for shape in shapes)
    picture = Picture(planes, yuv)
    label_map = np.zeros((27, 48), np.uint8)
    sure = np.full_like(label_map, 255)
    overlay = Overlay(labels, legend=True, uncertainty=True)
    first = draw(overlay, picture, label_map, sure, mean_confidence=0.42).bgr().astype(int)
    changed = np.flatnonzero(abs(first - 128).max(axis=2).max(axis=1) > 3)
    assert changed.min() > 270 * 2 // 3, "the scale stays in the lower third"
    strip = first[changed.min() :]
    for confidence in (20, 128, 200):  # from yellow over red to violet
        wanted = heat_colours()[confidence, 0].astype(int)
        assert (abs(strip - wanted).max(axis=2) <= 40).any(), confidence
    assert not (abs(strip - np.array([0, 0, 200])).max(axis=2) <= 12).any(), "no class is named"
    again = draw(overlay, picture, label_map, sure, mean_confidence=0.42).bgr()
    other = draw(overlay, picture, label_map, sure, mean_confidence=0.77).bgr()
    assert np.array_equal(first, again) and not np.array_equal(first, other), "it says the mean"


@pytest.mark.parametrize("size", [(1, 1), (20, 30), (40, 330), (1080, 1920)])
def test_the_scale_fits_any_size(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 100, np.uint8)
    Scale().draw(Picture.of_bgr(image), 1.0)
    assert (image == 100).all() == (size[1] < 320)
