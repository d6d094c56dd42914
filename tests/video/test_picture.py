from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.frames import Array, resize_frame
from pipeline.video.drawing.picture import Box, Picture, Yuv

SPACES = [Yuv(matrix, full_range=full) for matrix in (1, 2, 6, 9) for full in (False, True)]


def smooth(size: tuple[int, int], low: int, high: int, seed: int) -> Array:
    coarse = np.random.default_rng(seed).integers(low, high, (5, 7), np.uint8)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def planes(size: tuple[int, int]) -> tuple[Array, ...]:
    half = (size[0] // 2, size[1] // 2)
    return smooth(size, 60, 190, 0), smooth(half, 100, 156, 1), smooth(half, 100, 156, 2)


@pytest.mark.parametrize("yuv", SPACES)
def test_colours_as_ffmpeg_converts_them(yuv: Yuv) -> None:
    av = pytest.importorskip("av")
    picture = Picture(planes((96, 128)), yuv)
    frame = av.VideoFrame(128, 96, "yuv420p")
    for place, plane in zip(frame.planes, picture.planes, strict=True):
        np.copyto(np.frombuffer(place, np.uint8).reshape(place.height, -1)[:, : place.width], plane)
    frame.colorspace, frame.color_range = yuv.matrix, 2 if yuv.full_range else 1
    difference = picture.bgr().astype(int) - frame.to_ndarray(format="bgr24")
    assert abs(difference).mean() < 1.5, "FFmpeg's fast path rounds down"
    assert abs(difference).max() <= 8, "and repeats chroma where ours is interpolated"


@pytest.mark.parametrize("yuv", SPACES)
def test_there_and_back(yuv: Yuv) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (256, 1, 3), np.uint8)
    tables = Picture(planes((4, 4)), yuv).colours(colours)
    back = Picture((np.stack(tables, axis=1)[:, None],)).planes[0]
    back = np.asarray(cv2.transform(back, yuv.to_bgr()), np.uint8)
    assert abs(back.astype(int) - colours).max() <= 3, "8 bits of YUV"
    assert Picture.of_bgr(colours).colours(colours)[0] is colours


def test_bgr_is_resized_as_everywhere() -> None:
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    assert np.array_equal(Picture.of_bgr(image).fit((96, 128)), resize_frame(image, (96, 128)))
    assert Picture.of_bgr(image).bgr() is image


@pytest.mark.parametrize("size", [(90, 160), (128, 192), (360, 640), (700, 1300)])
def test_yuv_is_resized_as_if_converted_first(size: tuple[int, int]) -> None:
    picture = Picture(planes((720, 1280)), Yuv(matrix=1))
    difference = abs(picture.fit(size).astype(int) - resize_frame(picture.bgr(), size))
    assert difference.mean() < 1, "rounding, once for every halving"
    assert difference.max() <= 4


@pytest.mark.parametrize("size", [(2160, 3840), (720, 1280), (540, 960), (360, 480)])
def test_detail_does_not_alias(size: tuple[int, int]) -> None:
    """Noise and stripes of one pixel remain no more visible than after an average over areas."""
    noise = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    stripes = np.tile(np.array([0, 255], np.uint8), size[1] // 2)[np.newaxis].repeat(size[0], axis=0)
    grey = np.full((size[0] // 2, size[1] // 2), 128, np.uint8)
    for luma in (noise, stripes, 255 - stripes):
        picture = Picture((luma, grey, grey), Yuv(full_range=True))
        got, area = picture.fit((128, 192)).astype(float), resize_frame(picture.bgr(), (128, 192))
        assert abs(got.mean() - area.mean()) < 1
        assert got.std() < 1.2 * area.std() + 1


@pytest.mark.parametrize(("size", "fitted"), [((1080, 3840), (256, 256)), ((2160, 1920), (128, 256))])
def test_detail_does_not_alias_where_shapes_differ(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    rows, columns = np.indices(size)
    stripes = np.asarray(255 * ((columns if size[1] > size[0] else rows) // 3 % 2), np.uint8)
    grey = np.full((size[0] // 2, size[1] // 2), 128, np.uint8)
    picture = Picture((stripes, grey, grey), Yuv(full_range=True))
    area = resize_frame(picture.bgr(), fitted)
    assert abs(picture.fit(fitted).astype(float) - area).mean() < 10


def test_crop_is_a_view_of_the_same_place() -> None:
    picture = Picture(planes((96, 128)), Yuv())
    part = picture.crop(Box(16, 32, 40, 50))
    assert part.size == (40, 50)
    assert [plane.shape for plane in part.planes] == [(40, 50), (20, 25), (20, 25)]
    assert all(np.shares_memory(a, b) for a, b in zip(part.planes, picture.planes, strict=True))
    inner = (slice(4, -4), slice(4, -4))  # chroma is interpolated at the border
    assert abs(part.bgr()[inner].astype(int) - picture.bgr()[16:56, 32:82][inner]).max() <= 2


def test_an_image_as_planes() -> None:
    image = np.stack([smooth((40, 60), 40, 200, seed) for seed in range(3)], axis=2)
    like = Picture(planes((96, 128)), Yuv(matrix=1))
    converted = Picture(like.like(image), like.yuv)
    assert abs(converted.bgr().astype(int) - image).mean() < 4
    assert Picture.of_bgr(image).like(image)[0] is image
