"""Values of masks become train ids, compared with plain loops; every unknown value is reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets._images import Mask
from pipeline.datasets._masks import Coding
from pipeline.errors import UserError

RED, GREEN, VOID = (200, 0, 0), (0, 200, 0), (9, 9, 9)
COLOURS = {RED: 0, GREEN: 1, VOID: 255}
FILE = Path("m.png")
IDS = Coding(ids={0: 0}, allowed="allowed: 0")
BY_COLOUR = Coding(colours=COLOURS)
TWO = np.array([RED, (1, 2, 3)], np.uint8)


def test_ids_are_looked_up_one_by_one() -> None:
    table = {0: 255, 7: 0, 8: 1, 300: 2}
    values = np.random.default_rng(0).choice([*table], (9, 11)).astype(np.uint16)
    expected = [[table[int(value)] for value in row] for row in values]
    assert Coding(ids=table).decode(FILE, Mask(values)).tolist() == expected


def test_colours_are_looked_up_one_by_one() -> None:
    known = list(COLOURS)
    picks = np.random.default_rng(0).integers(0, 3, (9, 11))
    values = np.array(known, np.uint8)[picks]
    expected = [[COLOURS[known[pick]] for pick in row] for row in picks]
    assert Coding(colours=COLOURS).decode(FILE, Mask(values)).tolist() == expected


def test_an_indexed_mask_is_decoded_by_its_colours_in_any_order() -> None:
    palette = np.array([VOID, (1, 2, 3), GREEN, RED], np.uint8)
    mask = Mask(np.array([[3, 2], [0, 3]], np.uint8), palette)
    assert Coding(colours=COLOURS).decode(FILE, mask).tolist() == [[0, 1], [255, 0]]
    assert Coding(ids={0: 5, 2: 6, 3: 7}).decode(FILE, mask).tolist() == [[7, 6], [5, 7]], "no colours: entries are ids"


def test_a_grey_ramp_is_ids() -> None:
    palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)
    coding = Coding(ids={0: 0, 20: 20}, colours={(0, 0, 0): 0, (0, 64, 128): 20})
    assert coding.decode(FILE, Mask(np.array([[0, 20]], np.uint8), palette)).tolist() == [[0, 20]]


@pytest.mark.parametrize(
    ("coding", "mask", "message"),
    [
        (IDS, Mask(np.array([[0, 3, 500]], np.uint16)), r"label ids \[3, 500\]; allowed: 0"),
        (IDS, Mask(np.arange(1, 13, dtype=np.uint8)[None]), r"\[1, 2, 3, 4, 5, 6, 7, 8, \.\.\. 4 more\]"),
        (IDS, Mask(np.array([[[0, 0, 9]]], np.uint8)), "a colour mask; allowed: class ids in one channel"),
        (BY_COLOUR, Mask(np.array([[RED, (1, 2, 3)]], np.uint8)), r"unknown colours \[\(1, 2, 3\)\]"),
        (BY_COLOUR, Mask(np.array([[0, 1]], np.uint8), TWO), r"entries of unknown colour: \[1 is \(1, 2, 3\)\]"),
        (BY_COLOUR, Mask(np.array([[4]], np.uint8), TWO), "entries up to 4, but the palette has 2 entries"),
        (BY_COLOUR, Mask(np.ones((1, 1), np.uint8)), r"unknown colours \[\(1, 1, 1\)\]; .*set masks_hold: ids"),
        (BY_COLOUR, Mask(np.zeros((1, 1), np.uint16), bits=16), "16 bits per pixel; allowed: colours of 8 bits"),
    ],
)
def test_values_without_a_meaning_are_reported(coding: Coding, mask: Mask, message: str) -> None:
    with pytest.raises(UserError, match=rf"^m\.png: .*{message}"):
        coding.decode(FILE, mask)


def test_all_other_values_may_have_one_train_id() -> None:
    assert Coding(ids={1: 0}, rest=255).decode(FILE, Mask(np.array([[1, 2]], np.uint8))).tolist() == [[0, 255]]
    colours = Coding(colours={RED: 0}, rest=255)
    assert colours.decode(FILE, Mask(np.array([[RED, GREEN]], np.uint8))).tolist() == [[0, 255]]
    palette = np.array([GREEN, RED], np.uint8)
    assert colours.decode(FILE, Mask(np.array([[0, 1]], np.uint8), palette)).tolist() == [[255, 0]]


def test_three_equal_channels_are_ids_where_only_ids_are_declared() -> None:
    values = np.repeat(np.array([[0, 20]], np.uint8)[..., None], 3, -1)
    assert Coding(ids={0: 0, 20: 1}).decode(FILE, Mask(values)).tolist() == [[0, 1]]
    assert Coding(ids={0: 0}, colours={(0, 0, 0): 1, (20, 20, 20): 2}).decode(FILE, Mask(values)).tolist() == [[1, 2]]
