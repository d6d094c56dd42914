"""Names, colours and the ignored id: only sets that make sense can be built."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec

GOOD: dict[str, Any] = {"names": ("road", "car"), "palette": ((128, 64, 32), (0, 0, 255))}


def test_counts_its_classes_and_ignores_255() -> None:
    spec = LabelSpec(**GOOD)
    assert (spec.num_classes, spec.ignore_index) == (2, 255)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": ()}, "must be unique and not empty"),
        ({"names": ("road", "road")}, r"must be unique.*\['road', 'road'\]"),
        ({"palette": ((0, 0, 0),)}, "1 colours for 2 classes"),
        ({"palette": ((0, 0), (1, 1, 1))}, "three integers in 0..255"),
        ({"palette": ((0, 0, 256), (1, 1, 1))}, "three integers in 0..255"),
        ({"palette": ((0, 0, -1), (1, 1, 1))}, "three integers in 0..255"),
        ({"ignore_index": 1}, r"ignore_index 1 must lie in 2\.\.255"),
        ({"ignore_index": -1}, "ignore_index -1"),
        ({"ignore_index": 256}, "ignore_index 256"),
    ],
)
def test_refuses(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        LabelSpec(**{**GOOD, **change})


def test_meta_round_trip() -> None:
    spec = LabelSpec(**GOOD, ignore_index=200)
    assert spec.to_meta() == {"classes": ["road", "car"], "palette": [[128, 64, 32], [0, 0, 255]], "ignore_index": 200}
    assert LabelSpec.from_meta(spec.to_meta()) == spec


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": None}, "wrong type"),
        ({"palette": [[1, 2], [3, 4]]}, "wrong type"),
        ({"palette": [["red", 0, 0], [0, 0, 0]]}, "wrong type"),
        ({"ignore_index": None}, "wrong type"),
        ({"classes": ["road", "road"]}, "unique"),
    ],
)
def test_damaged_meta_is_a_user_error(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        LabelSpec.from_meta({**LabelSpec(**GOOD).to_meta(), **change})


@pytest.mark.parametrize("key", ["classes", "palette", "ignore_index"])
def test_missing_meta_is_named(key: str) -> None:
    meta = LabelSpec(**GOOD).to_meta()
    del meta[key]
    with pytest.raises(UserError, match=f"no '{key}'"):
        LabelSpec.from_meta(meta)


def test_lookup_gives_bgr_and_black_for_the_rest() -> None:
    ids = np.array([[0, 1, 2, 255]], np.uint8)
    shown = cv2.LUT(cv2.merge([ids] * 3), LabelSpec(**GOOD).lookup_bgr())
    assert shown.tolist() == [[[32, 64, 128], [255, 0, 0], [0, 0, 0], [0, 0, 0]]]
