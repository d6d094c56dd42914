"""Names, colours and ids of classes: inconsistent ones are refused."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec, rgb

GOOD: dict[str, Any] = {"names": ("road", "car"), "palette": ((128, 64, 32), (0, 0, 255))}


def test_counts_its_classes_and_ignores_255() -> None:
    spec = LabelSpec(**GOOD)
    assert (spec.num_classes, spec.ignore_index) == (2, 255)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ()}, "must be unique and not empty"),
        ({"names": ("road", "road")}, r"must be unique.*\['road', 'road'\]"),
        ({"names": ("road", " ")}, r"must not be blank or hold control characters; got \[' '\]"),
        ({"names": ("road", "c\nar")}, r"got \['c\\nar'\]"),
        ({"palette": ((0, 0, 0),)}, "1 colours for 2 classes"),
        ({"palette": ((0, 0), (1, 1, 1))}, "three integers in 0..255"),
        ({"palette": ((0, 0, 256), (1, 1, 1))}, "three integers in 0..255"),
        ({"palette": ((0, 0, -1), (1, 1, 1))}, "three integers in 0..255"),
        ({"ignore_index": 1}, r"ignore_index: got 1; allowed: 2\.\.255"),
        ({"ignore_index": -1}, "ignore_index: got -1"),
        ({"ignore_index": 256}, "ignore_index: got 256"),
        ({"original_ids": (7, 26)}, "original_ids and original_ignored: set both or neither"),
        ({"original_ignored": 0}, "original_ids and original_ignored: set both or neither"),
        ({"original_ids": (7,), "original_ignored": 0}, "original_ids has 1 ids for 2 classes"),
        ({"original_ids": (7, 7), "original_ignored": 0}, r"original_ids \[7, 7\], .* allowed: different integers"),
        ({"original_ids": (0, 7), "original_ignored": 0}, r"\[0, 7\], original_ignored 0; allowed"),
        ({"original_ids": (7, 256), "original_ignored": 0}, r"integers in 0\.\.255"),
        ({"original_ids": (7, 26), "original_ignored": -1}, r"integers in 0\.\.255"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LabelSpec(**{**GOOD, **change})


def test_255_classes_are_allowed_and_256_are_refused() -> None:
    def spec(classes: int) -> LabelSpec:
        return LabelSpec(
            tuple(map(str, range(classes))), tuple((index % 256, index // 256, 9) for index in range(classes))
        )

    assert spec(255).lookup_bgr()[[254, 255], 0].tolist() == [[9, 0, 254], [0, 0, 0]]
    with pytest.raises(UserError, match=r"got 256 classes; allowed: 255, because .*; merge classes"):
        spec(256)


@pytest.mark.parametrize("colour", ["#8000ff", "#8000FF", "#80F", [128, 0, 255], (128, 0, 255)])
def test_a_colour_may_be_three_numbers_or_hexadecimal(colour: Any) -> None:
    assert rgb(colour) == ((136, 0, 255) if colour == "#80F" else (128, 0, 255))


@pytest.mark.parametrize(
    "colour", ["8000ff", "#8000f", "#8000fg", "red", "", [1, 2], [1, 2, 3, 4], [0, 0, 256], [-1, 0, 0]]
)
def test_other_values_are_no_colour(colour: Any) -> None:
    with pytest.raises(UserError, match=r'allowed: \[red, green, blue\] with integers in 0\.\.255, or "#rrggbb"'):
        rgb(colour)


def test_names_are_kept_in_composed_unicode() -> None:
    assert LabelSpec(("cafe\u0301", "road"), GOOD["palette"]).names == ("caf\u00e9", "road")
    with pytest.raises(UserError, match="class names must be unique"):
        LabelSpec(("cafe\u0301", "caf\u00e9"), GOOD["palette"])


def test_meta_round_trip() -> None:
    spec = LabelSpec(**GOOD, ignore_index=200)
    assert spec.to_meta() == {"classes": ["road", "car"], "palette": [[128, 64, 32], [0, 0, 255]], "ignore_index": 200}
    assert LabelSpec.from_meta(spec.to_meta()) == spec


def test_meta_round_trip_with_original_ids() -> None:
    spec = LabelSpec(**GOOD, original_ids=(7, 26), original_ignored=0)
    assert spec.to_meta() == {**LabelSpec(**GOOD).to_meta(), "original_ids": [7, 26], "original_ignored": 0}
    assert LabelSpec.from_meta(json.loads(json.dumps(spec.to_meta()))) == spec


def test_original_ids_as_a_table() -> None:
    ids = np.array([[0, 1, 2, 200, 255]], np.uint8)
    spec = LabelSpec(**GOOD, ignore_index=200, original_ids=(7, 26), original_ignored=99)
    assert cv2.LUT(ids, spec.to_original()).tolist() == [[7, 26, 99, 99, 99]]


def test_without_original_ids_there_is_no_table() -> None:
    with pytest.raises(UserError, match=r"no original ids: .* merged, .*dvc repro.* write train ids instead"):
        LabelSpec(**GOOD).to_original()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": None}, "wrong type"),
        ({"palette": [[1, 2], [3, 4]]}, "wrong type"),
        ({"palette": [["red", 0, 0], [0, 0, 0]]}, "wrong type"),
        ({"ignore_index": None}, "wrong type"),
        ({"classes": ["road", "road"]}, "unique"),
        ({"original_ids": None, "original_ignored": 0}, "wrong type"),
        ({"original_ids": ["x", 1], "original_ignored": 0}, "wrong type"),
        ({"original_ids": [7, 26]}, "'original_ignored' is missing; .* or neither"),
        ({"original_ignored": 0}, "'original_ids' is missing"),
        ({"original_ids": [7], "original_ignored": 0}, "1 ids for 2 classes"),
    ],
)
def test_damaged_meta_is_a_user_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LabelSpec.from_meta({**LabelSpec(**GOOD).to_meta(), **change})


@pytest.mark.parametrize("key", ["classes", "palette", "ignore_index"])
def test_missing_meta_is_named(key: str) -> None:
    meta = LabelSpec(**GOOD).to_meta()
    del meta[key]
    with pytest.raises(UserError, match=f"'{key}' is missing"):
        LabelSpec.from_meta(meta)


def test_lookup_gives_bgr_and_black_for_the_rest() -> None:
    ids = np.array([[0, 1, 2, 255]], np.uint8)
    shown = cv2.LUT(cv2.merge([ids] * 3), LabelSpec(**GOOD).lookup_bgr())
    assert shown.tolist() == [[[32, 64, 128], [255, 0, 0], [0, 0, 0], [0, 0, 0]]]
