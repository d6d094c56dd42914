from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import Array, resize_label_map
from pipeline.labels import LabelSpec
from pipeline.video.overlay import Overlay, count_ids


def plain(frame: Array, label_map: Array, labels: LabelSpec, alpha: float) -> Array:
    """The reference: colours by fancy index at frame size, blended in float64."""
    ids = resize_label_map(label_map, (frame.shape[0], frame.shape[1]))
    colours = labels.lookup_bgr()[ids, 0]
    blended = np.rint((1 - alpha) * frame + alpha * colours.astype(np.float64)).astype(np.uint8)
    return np.where((ids < labels.num_classes)[..., None], blended, frame)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [0, 1, 255, 7]])
@pytest.mark.parametrize("size", [(12, 16), (48, 64), (91, 33), (6, 5)])
def test_equals_plain_numpy(labels: LabelSpec, alpha: float, ids: list[int], size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    frame = random.integers(0, 256, (*size, 3), np.uint8)
    label_map = random.choice(np.array(ids, np.uint8), (12, 16))
    before = frame.copy()
    picture = Overlay(labels, alpha=alpha).draw(frame, label_map)
    assert abs(picture.astype(int) - plain(frame, label_map, labels, alpha)).max() <= 1  # ties of rounding
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
    without = Overlay(labels, alpha=0.5).draw(frame, label_map)
    picture = Overlay(labels, alpha=0.5, legend=True).draw(frame, label_map)
    changed = np.flatnonzero((picture != without).any(axis=(1, 2)))
    assert changed.size
    assert changed.min() > 270 * 2 // 3, "the legend stays in the lower third"
    assert (picture == np.array([0, 200, 0])).all(axis=2).any(), "the swatch of class 1 has its full colour"
    assert not (picture == np.array([0, 0, 200])).all(axis=2).any(), "class 0 does not occur"


@pytest.mark.parametrize("size", [(20, 30), (40, 170), (1080, 1920)])
def test_legend_with_many_classes_fits_any_size(size: tuple[int, int]) -> None:
    many = LabelSpec(names=tuple(f"class number {i}" for i in range(150)), palette=((9, 9, 9),) * 150)
    label_map = np.arange(150, dtype=np.uint8).reshape(10, 15)
    picture = Overlay(many, legend=True).draw(np.zeros((*size, 3), np.uint8), label_map)
    assert picture.shape == (*size, 3)
