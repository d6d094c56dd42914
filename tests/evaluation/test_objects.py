"""Connected components compared with a plain search, and the recall of objects compared with counts by hand."""

from __future__ import annotations

from collections import Counter, deque

import cv2
import numpy as np
import pytest

from pipeline.evaluation import objects
from pipeline.evaluation.objects import Components, ObjectCounts


def searched(label: np.ndarray) -> list[tuple[int, frozenset[int]]]:
    """(id, pixels) of every component, by breadth-first search over 8 neighbours."""
    height, width = label.shape
    seen = np.zeros(label.shape, bool)
    components = []
    for start in np.ndindex(label.shape):
        if seen[start]:
            continue
        pixels, queue = set(), deque([start])
        seen[start] = True
        while queue:
            y, x = queue.popleft()
            pixels.add(y * width + x)
            for ny in range(max(y - 1, 0), min(y + 2, height)):
                for nx in range(max(x - 1, 0), min(x + 2, width)):
                    if not seen[ny, nx] and label[ny, nx] == label[start]:
                        seen[ny, nx] = True
                        queue.append((ny, nx))
        components.append((int(label[start]), frozenset(pixels)))
    return components


def of_runs(label: np.ndarray) -> list[tuple[int, frozenset[int]]]:
    components = Components.of(label)
    stops = np.append(components.starts[1:], label.size)
    pixels: dict[int, set[int]] = {}
    for start, stop, number in zip(
        components.starts.tolist(), stops.tolist(), components.numbers.tolist(), strict=True
    ):
        pixels.setdefault(number, set()).update(range(start, stop))
    assert [len(pixels[number]) for number in range(len(components.areas))] == components.areas.tolist()
    return [(int(components.classes[number]), frozenset(inside)) for number, inside in pixels.items()]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 2), (13, 17), (24, 9)])
@pytest.mark.parametrize("ids", [1, 2, 3, 6])
def test_components_are_those_of_a_plain_search(size: tuple[int, int], ids: int) -> None:
    for seed in range(4):
        label = np.random.default_rng(seed).integers(0, ids, size, dtype=np.uint8)
        assert Counter(of_runs(label)) == Counter(searched(label))


def test_a_long_winding_object_is_one_component() -> None:
    """A spiral and a comb, whose runs meet only at their end."""
    spiral = np.zeros((31, 31), np.uint8)
    y, x, (dy, dx) = 0, 0, (0, 1)
    spiral[0, 0] = 1
    for length in [30, *(side for side in range(30, 0, -2) for _ in (0, 1))]:
        for _ in range(length):
            y, x = y + dy, x + dx
            spiral[y, x] = 1
        dy, dx = dx, -dy
    comb = np.zeros((20, 41), np.uint8)
    comb[:, ::2] = 1
    comb[-1] = 1
    for label in (spiral, comb, comb[::-1]):
        assert Counter(of_runs(label)) == Counter(searched(label))
        count, _ = cv2.connectedComponents(label, connectivity=8)
        assert (Components.of(label).classes == 1).sum() == count - 1 == 1


def test_components_are_those_of_opencv_on_a_large_map() -> None:
    coarse = np.random.default_rng(0).random((20, 30, 5)).astype(np.float32)
    label = cv2.resize(coarse, (600, 400), interpolation=cv2.INTER_CUBIC).argmax(axis=2).astype(np.uint8)
    expected = []
    for k in range(5):
        _, _, stats, _ = cv2.connectedComponentsWithStats((label == k).astype(np.uint8), connectivity=8)
        expected += [(k, area) for area in stats[1:, cv2.CC_STAT_AREA].tolist()]
    components = Components.of(label)
    assert sorted(zip(components.classes.tolist(), components.areas.tolist(), strict=True)) == sorted(expected)


def test_bounds_are_those_of_coco_and_cityscapes() -> None:
    assert pytest.approx((1 / 300, 3 / 100)) == objects.BOUNDS
    assert objects.SPECK * 1024 * 2048 == 100


def test_recall_by_hand() -> None:
    """100 x 100 pixels: small below 33.3, medium below 300; class 2 does not occur."""
    label = np.zeros((100, 100), np.uint8)
    label[:, 50] = 255  # ignored: splits class 0 in two
    label[10:14, 10:18] = 1  # 32 pixels, small: half of its pixels are right, so it is found
    label[30:34, 10:18] = 1  # 32 pixels, small: one pixel less is right, so it is not found
    label[40:45, 10:18] = 1  # 40 pixels, medium: found
    label[60:80, 10:25] = 1  # 300 pixels, large: found
    label[99, 41:50] = 1  # nine pixels: no object
    prediction = np.where(label == 255, 0, label).astype(np.uint8)
    prediction[10:12, 10:18] = 0
    prediction[30:32, 10:18] = 2
    prediction[32, 10] = 2
    counts = ObjectCounts(num_classes=3)
    counts.add(label, prediction)
    assert counts.total.tolist() == [[0, 0, 2], [2, 1, 1], [0, 0, 0]]
    assert counts.found.tolist() == [[0, 0, 2], [1, 1, 1], [0, 0, 0]]
    assert counts.recall() == [[None, None, 100.0], [50.0, 100.0, 100.0], [None, None, None]]
    counts.add(label, np.zeros_like(label))
    assert counts.recall()[1] == [25.0, 50.0, 50.0]
    facts = objects.facts(counts, counts)
    assert facts["counts"] == [[0, 0, 4], [4, 2, 2], [0, 0, 0]] and facts["recall_float"] == facts["recall_int8"]
    assert facts["small"] == {"count": 4, "float": 25.0, "int8": 25.0}


def test_very_small_components_are_no_objects() -> None:
    """In a map of 1024 x 2048, 100 pixels are an object, 99 pixels are not."""
    label = np.zeros((1024, 2048), np.uint8)
    label[5, 10:109] = 1
    label[9, 10:110] = 1
    counts = ObjectCounts(num_classes=2)
    counts.add(label, label)
    assert counts.total.tolist() == [[0, 0, 1], [1, 0, 0]] == counts.found.tolist()
