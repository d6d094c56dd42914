"""Smoothing: the counting rule compared with plain loops, motion with known scenes, and resets."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.datasets.streets import Streets
from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.video.drawing.picture import BT601, Picture, Yuv
from pipeline.video.smoothing import Smoother

SIZE = (64, 96)


@pytest.fixture(scope="module")
def flickered() -> Callable[..., tuple[int, int]]:
    """The function of benchmarks/smoothing.py."""
    spec = importlib.util.spec_from_file_location(
        "smoothing_benchmark", Path(__file__).parents[2] / "benchmarks/smoothing.py"
    )
    assert spec
    assert spec.loader
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where its dataclass looks up names
    spec.loader.exec_module(sys.modules[spec.name])
    function: Callable[..., tuple[int, int]] = sys.modules[spec.name].flickered
    return function


def texture(seed: int, size: tuple[int, int]) -> Array:
    """A blurred pattern (h, w, 3) with the full range of luma."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return np.asarray(cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX), np.uint8)


def by_loops(maps: list[Array], frames: int) -> Iterator[Array]:
    """The rule, pixel by pixel, without motion; 255 is ignored."""
    limit = 2 * (frames - 1)
    label = [255] * maps[0].size
    settled = [0] * maps[0].size
    for seen in maps:
        for pixel, new in enumerate(seen.ravel().tolist()):
            if new == 255:
                label[pixel], settled[pixel] = 255, 0
            elif new == label[pixel]:
                settled[pixel] = min(settled[pixel] + 1, limit)
            elif settled[pixel] >= 2:
                settled[pixel] -= 2
            else:
                label[pixel], settled[pixel] = new, 1
        yield np.array(label, np.uint8).reshape(seen.shape)


@pytest.mark.parametrize("frames", [2, 5, 60])
def test_a_still_picture_is_counted_as_by_loops(frames: int) -> None:
    rng = np.random.default_rng(frames)
    often = rng.integers(0, 3, SIZE, dtype=np.uint8)
    noise = rng.choice(np.array([0, 1, 2, 18, 255], np.uint8), (150, *SIZE))
    maps = [often if index < 70 else np.where(rng.random(SIZE) < 0.5, often, noise[index]) for index in range(150)]
    smoother, picture = Smoother(frames=frames), Picture.of_bgr(texture(0, SIZE))
    for seen, expected in zip(maps, by_loops(maps, frames), strict=True):
        np.testing.assert_array_equal(smoother.smooth(seen, picture), expected)
    assert smoother.cuts == 0


def test_a_settled_label_holds_for_as_many_frames_as_were_asked() -> None:
    smoother, picture = Smoother(frames=4), Picture.of_bgr(texture(0, SIZE))
    road, car = np.zeros(SIZE, np.uint8), np.ones(SIZE, np.uint8)
    for _ in range(20):
        smoother.smooth(road, picture)
    assert [int(smoother.smooth(car, picture).max()) for _ in range(5)] == [0, 0, 0, 1, 1]
    assert smoother.smooth(road, picture).min() == 1  # seen twice: one contradiction is not enough
    assert smoother.smooth(road, picture).max() == 0


def panorama(shift: int) -> tuple[Array, Array]:
    """View of a camera that moves right by 3 pixels per frame: frame, and labels in stripes of 24 pixels."""
    wide = texture(7, (SIZE[0], 400))
    stripes = np.tile(np.arange(400) // 24 % 5, (SIZE[0], 1)).astype(np.uint8)
    part = slice(3 * shift, 3 * shift + SIZE[1])
    return np.ascontiguousarray(wide[:, part]), np.ascontiguousarray(stripes[:, part])


def test_labels_move_along_with_the_camera() -> None:
    rng = np.random.default_rng(0)
    moving, still = Smoother(), Smoother()
    wrong = {"seen": 0, "moving": 0, "still": 0}
    for index in range(40):
        frame, truth = panorama(index)
        seen = np.where(rng.random(SIZE) < 0.2, rng.integers(0, 5, SIZE, dtype=np.uint8), truth)
        results = {
            "seen": seen,
            "moving": moving.smooth(seen, Picture.of_bgr(frame)),
            "still": still.smooth(seen, Picture.of_bgr(np.zeros_like(frame))),
        }
        for name, result in results.items():
            wrong[name] += int(np.count_nonzero(result != truth))
    assert wrong["moving"] < 0.4 * wrong["seen"]
    assert wrong["still"] > wrong["seen"]  # without motion labels smear


def test_objects_that_come_into_view_are_shown_at_once() -> None:
    smoother = Smoother(frames=10)
    frame = texture(0, SIZE)
    road = np.zeros(SIZE, np.uint8)
    for _ in range(30):
        smoother.smooth(road, Picture.of_bgr(frame))
    covered, labels = frame.copy(), road.copy()
    covered[20:44, 30:60] = 255 - covered[20:44, 30:60] // 4
    labels[20:44, 30:60] = 3
    shown = smoother.smooth(labels, Picture.of_bgr(covered))
    assert np.mean(shown[20:44, 30:60] == 3) > 0.8
    assert np.mean(shown != labels) < 0.05


def test_a_rendered_drive_gains(flickered: Callable[..., tuple[int, int]]) -> None:
    """Labels with blotches that last one frame: fewer are wrong after smoothing, and fewer flicker."""
    streets = Streets(train=1, val=1, sequence=30, size=(128, 192), seed=11)
    rng = np.random.default_rng(0)
    smoother = Smoother()
    wrong = [0, 0]
    changed = [0, 0]
    before: list[tuple[Array, Array]] = []
    for name in streets.splits()["sequence"]:
        frame, truth = streets.read("sequence", name)
        blotches = cv2.resize(rng.random((16, 24)), (192, 128), interpolation=cv2.INTER_CUBIC) > 0.85
        seen = np.where(blotches, np.uint8(rng.integers(0, 11)), truth)
        now = [(truth, seen), (truth, smoother.smooth(seen, Picture.of_bgr(frame)))]
        for index, (label, shown) in enumerate(now):
            wrong[index] += int(np.count_nonzero(label != shown))
            if before:
                changed[index] += flickered(before[index], (label, shown), 255)[0]
        before = now
    assert wrong[1] < 0.5 * wrong[0]
    assert changed[1] < 0.5 * changed[0]
    assert smoother.cuts == 0


def test_a_cut_clears_the_memory() -> None:
    streets = Streets(train=1, val=6, sequence=0, size=(128, 192), seed=11)
    scenes = [streets.read("val", name)[0] for name in streets.splits()["val"]]
    smoother = Smoother(frames=30)
    rng = np.random.default_rng(0)
    for scene in scenes:
        first = rng.integers(0, 9, (128, 192), dtype=np.uint8)
        np.testing.assert_array_equal(smoother.smooth(first, Picture.of_bgr(scene)), first)
        for _ in range(10):
            smoother.smooth(first, Picture.of_bgr(scene))
    assert smoother.cuts == len(scenes) - 1


def test_another_size_or_a_reset_clears_the_memory() -> None:
    smoother, picture = Smoother(frames=30), Picture.of_bgr(texture(1, SIZE))
    for _ in range(10):
        smoother.smooth(np.zeros(SIZE, np.uint8), picture)
    small = np.full((32, 48), 4, np.uint8)
    np.testing.assert_array_equal(smoother.smooth(small, picture), small)
    for _ in range(10):
        smoother.smooth(small, picture)
    smoother.reset()
    np.testing.assert_array_equal(smoother.smooth(small + 1, picture), small + 1)
    assert smoother.cuts == 0


def test_the_argument_stays_and_the_result_is_the_callers() -> None:
    smoother, picture = Smoother(), Picture.of_bgr(texture(1, SIZE))
    seen = np.full(SIZE, 2, np.uint8)
    seen.flags.writeable = False
    for _ in range(3):
        shown = smoother.smooth(seen, picture)
        assert shown.dtype == np.uint8
        assert shown.min() == shown.max() == 2
        shown[:] = 77


def test_yuv_and_larger_pictures_are_followed_alike() -> None:
    rng = np.random.default_rng(0)
    as_bgr, as_yuv, large = Smoother(), Smoother(), Smoother()
    different = 0
    for index in range(15):
        frame, truth = panorama(index)
        seen = np.where(rng.random(SIZE) < 0.2, rng.integers(0, 5, SIZE, dtype=np.uint8), truth)
        stacked = cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420)
        chroma = stacked[SIZE[0] :].reshape(2, SIZE[0] // 2, SIZE[1] // 2)
        picture = Picture((np.asarray(stacked[: SIZE[0]], np.uint8), chroma[0], chroma[1]), Yuv(BT601))
        twice = np.repeat(np.repeat(frame, 2, axis=0), 2, axis=1)
        expected = as_bgr.smooth(seen, Picture.of_bgr(frame))
        np.testing.assert_array_equal(large.smooth(seen, Picture.of_bgr(twice)), expected)
        different += int(np.count_nonzero(as_yuv.smooth(seen, picture) != expected))
    assert different < 0.03 * 15 * SIZE[0] * SIZE[1]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (7, 5), (12, 16), (11, 90), (90, 11), (63, 64), (130, 700)])
def test_any_size(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    smoother = Smoother()
    for index in range(4):
        seen = rng.integers(0, 4, size, dtype=np.uint8)
        shown = smoother.smooth(seen, Picture.of_bgr(np.roll(texture(1, size), index, axis=1)))
        assert shown.shape == size
        assert shown.max() < 4


@pytest.mark.parametrize("frames", [-1, 1, 61])
def test_frames_out_of_range(frames: int) -> None:
    with pytest.raises(UserError, match=rf"over {frames} frames; allowed: 2 to 60; 5 is the default"):
        Smoother(frames=frames)


def test_flicker_counts_what_changes_where_the_label_does_not(flickered: Callable[..., tuple[int, int]]) -> None:
    before = np.array([[0, 0, 1, 255, 2]], np.uint8), np.array([[0, 1, 1, 0, 2]], np.uint8)
    now = np.array([[0, 0, 2, 255, 2]], np.uint8), np.array([[1, 1, 2, 1, 2]], np.uint8)
    # pixel 0 flickers, 1 and 4 are steady, 2 has another label, 3 has none
    assert flickered(before, now, 255) == (1, 3)
