"""Indexed masks of ids: greys are ids, entries are ids, and contradictions are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets._images import Mask
from pipeline.datasets._masks import Coding
from pipeline.datasets.folder import Folder
from pipeline.errors import UserError
from pipeline.labels import IGNORE_INDEX, LabelSpec

Write = Callable[..., Path]
FILE = Path("m.png")
BLACK, RED, GREEN, BLUE, WHITE = (0, 0, 0), (128, 0, 0), (0, 128, 0), (0, 0, 128), (255, 255, 255)
LABELS = LabelSpec(names=("bg", "road", "car"), palette=(BLACK, RED, GREEN))
IDS = Coding(ids={0: 0, 1: 1, 2: 2, 255: IGNORE_INDEX}, allowed="allowed: 0..2, 255")
Colours = list[tuple[int, int, int]]


def decoded(entries: list[int], palette: Colours, *, coding: Coding = IDS, labels: LabelSpec = LABELS) -> list[int]:
    mask = Mask(np.array([entries], np.uint8), np.array(palette, np.uint8))
    return list(coding.decode(FILE, mask, labels=labels)[0])


def grey(*values: int) -> Colours:
    return [(value, value, value) for value in values]


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (0, 2, 1), (255, 2, 0), (0, 1, 2)])
def test_greys_are_ids_in_any_order(order: tuple[int, ...]) -> None:
    assert decoded([0, 1, 2], grey(*order)) == list(order)


def test_a_palette_of_greys_may_be_filled_up_and_may_be_a_ramp() -> None:
    assert decoded([0, 1, 2], grey(2, 1, 0, 0, 0)) == [2, 1, 0]
    assert decoded([0, 2, 255], grey(*range(256))) == [0, 2, 255]
    two = Coding(ids={0: 0, 255: 1})
    assert decoded([0, 1], grey(0, 255), coding=two) == [0, 1], "an optimised mask of 0 and 255"
    assert decoded([0, 1], grey(255, 0), coding=two) == [1, 0]


def test_entries_with_the_declared_colours_or_with_others_are_ids() -> None:
    assert decoded([0, 1, 2], [BLACK, RED, GREEN]) == [0, 1, 2]
    assert decoded([0, 1, 2, 255], [BLACK, BLUE, WHITE]) == [0, 1, 2, 255]
    assert decoded([0, 255], [BLACK, RED, GREEN, *[BLACK] * 253]) == [0, 255], "ignored entries may be black"
    black_and_white = LabelSpec(names=("bg", "road"), palette=(BLACK, WHITE))
    assert decoded([0, 1], grey(0, 255), labels=black_and_white) == [0, 1], "the declared colours"


@pytest.mark.parametrize(
    ("entries", "palette", "message"),
    [
        ([0, 1, 2], [BLACK, GREEN, RED], r"entry 1 is \(0, 128, 0\), the colour of 'car', but id 1 is 'road', entry 2"),
        ([0], [RED, BLACK, GREEN], r"entry 0 is \(128, 0, 0\), the colour of 'road', but id 0 is 'bg'"),
        ([3], [BLUE, BLUE, BLUE, RED], r"entry 3 is \(128, 0, 0\), the colour of 'road', but id 3 is of no class"),
        ([0, 255], [BLACK] * 255 + [GREEN], r"the colour of 'car', but id 255 is ignored"),
        ([2], [BLUE, RED, BLACK], "the colour of 'bg', but id 2 is 'car'"),
        ([0, 1], grey(0, 0), "entry 1 is grey 0, as is entry 0"),
        ([1], grey(0, 0, 0), "entry 1 is grey 0, as is entry 0"),
        ([0, 3], grey(1, 2), "entry 3 has no colour"),
        ([0, 1, 2], grey(0, 127, 255), "its greys are not ids: entry 1 is grey 127"),
        ([0, 1], grey(0, 255), "black and white palette: id 255 is ignored, entry 1 is not"),
        ([0, 3], grey(0, 7, 8, 9), r"label ids \[9\]"),
    ],
)
def test_contradictions_are_refused_with_advice(entries: list[int], palette: Colours, message: str) -> None:
    with pytest.raises(UserError, match=rf"^m\.png: .*{message}") as caught:
        decoded(entries, palette)
    assert "label ids" in message or "as 8-bit grey PNG, without a palette; if its colours are correct" in str(
        caught.value
    )


def test_a_grey_that_is_an_id_and_the_colour_of_another_one_is_refused() -> None:
    labels = LabelSpec(names=("wall", "food"), palette=((120, 120, 120), (1, 2, 3)))
    with pytest.raises(UserError, match="entry 1 is grey 120, the colour of id 1, but also an id; if its entries are"):
        decoded([0, 1], grey(0, 120), coding=Coding(ids={0: 255, 1: 0, 120: 1}), labels=labels)
    assert decoded([0, 1], grey(0, 120), coding=Coding(ids={0: 255, 1: 0}), labels=labels) == [255, 0]


def test_the_advice_of_a_contradiction_works() -> None:
    palette = [BLACK, GREEN, RED]
    with pytest.raises(UserError, match="declare its colours as those of the classes"):
        decoded([0, 1, 2], palette)
    declared = LabelSpec(names=LABELS.names, palette=(BLACK, GREEN, RED))
    assert decoded([0, 1, 2], palette, labels=declared) == [0, 1, 2]
    assert list(IDS.decode(FILE, Mask(np.array([[0, 1, 2]], np.uint8)), labels=LABELS)[0]) == [0, 1, 2]
    colours = Coding(colours={shown: train for train, shown in enumerate(LABELS.palette)})
    assert decoded([0, 1, 2], palette, coding=colours) == [0, 2, 1]


def test_the_greys_of_a_colour_coding_with_ids_are_ids_if_they_are_allowed() -> None:
    coding = Coding(ids={0: 0, 7: 7}, colours={BLACK: 0, (128, 128, 128): 7})
    assert decoded([0, 1], grey(7, 0), coding=coding) == [7, 0]
    assert decoded([0, 1], grey(0, 128), coding=coding) == [0, 7]


@pytest.mark.parametrize(
    ("bits", "values", "ids", "mixed", "expected"),
    [
        (1, [0, 1], {0: 0, 1: 1, 255: 255}, False, [0, 1]),
        (1, [0, 1], {0: 0, 255: 1}, False, [0, 1]),
        (1, [0, 1], {0: 0, 255: 1}, True, [0, 1]),
        (2, [0, 1, 2, 3], {0: 3, 85: 2, 170: 1, 255: 0}, True, [3, 2, 1, 0]),
        (4, [0, 15], {0: 0, 15: 1}, True, [0, 1]),
        (4, [0, 15], {0: 0, 255: 1}, True, [0, 1]),
        (1, [0, 0], {0: 0, 1: 1, 255: 255}, True, [0, 0]),
    ],
)
def test_few_bits_are_samples_or_greys(
    bits: int, values: list[int], ids: dict[int, int], mixed: bool, expected: list[int]
) -> None:
    mask = Mask(np.array([values], np.uint8), bits=bits)
    assert Coding(ids=ids).decode(FILE, mask, mixed=mixed).tolist() == [expected]


def test_few_bits_among_masks_of_more_are_refused_when_both_readings_are_ids() -> None:
    mask = Mask(np.array([[0, 1]], np.uint8), bits=1)
    with pytest.raises(UserError, match=r"1 bits per pixel, .*\[0, 1\] may mean \[0, 255\].* save it with 8 bits"):
        IDS.decode(FILE, mask, mixed=True)


def test_colours_may_be_greys() -> None:
    coding = Coding(colours={BLACK: 0, WHITE: 1})
    assert coding.decode(FILE, Mask(np.array([[0, 255]], np.uint8))).tolist() == [[0, 1]]
    assert coding.decode(FILE, Mask(np.array([[0, 1]], np.uint8), bits=1)).tolist() == [[0, 1]]


def folder(root: Path, save: Callable[[Path, int], object], **options: Any) -> Folder:
    for index in range(4):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "masks").mkdir(exist_ok=True)
        noise = np.random.default_rng(index).integers(0, 256, (6, 9, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"images/{index}.png")
        save(root / f"masks/{index}.png", index)
    labels: dict[str, Any] = {"classes": list(LABELS.names), "palette": [list(each) for each in LABELS.palette]}
    return Folder(**{"root": str(root), "sequence": ".+", "shares": {"val": 0.5}, **labels, **options})


def everything(dataset: Folder) -> dict[str, Any]:
    names = [(split, name) for split, listed in dataset.splits().items() for name in listed]
    return {name: dataset.read(split, name)[1].tolist() for split, name in names}


def test_optimised_masks_of_a_set_are_read_by_their_greys(tmp_path: Path) -> None:
    truth = np.arange(54, dtype=np.uint8).reshape(6, 9) % 3

    def save(path: Path, index: int) -> None:
        order = [(0, 1, 2), (2, 1, 0), (1, 2, 0)][index % 3]
        if index == 3:
            return Image.fromarray(truth).save(path)
        image = Image.fromarray(np.argsort(order).astype(np.uint8)[truth], mode="P")
        image.putpalette([value for grey in order for value in (grey, grey, grey)])
        return image.save(path)

    dataset = folder(tmp_path, save)
    assert list(dataset.problems()) == []
    assert everything(dataset) == {str(index): truth.tolist() for index in range(4)}


def indexed(path: Path, palette: Colours) -> None:
    image = Image.fromarray(np.arange(54, dtype=np.uint8).reshape(6, 9) % 3, mode="P")
    image.putpalette([value for entry in palette for value in entry])
    image.save(path)


def test_different_palettes_of_masks_are_an_error_unless_masks_hold_colours(tmp_path: Path) -> None:
    cyan, pink = (0, 200, 200), (200, 0, 200)
    dataset = folder(tmp_path, lambda path, index: indexed(path, [BLACK, cyan, pink] if index else [BLACK, pink, cyan]))
    (problem,) = dataset.problems()
    assert "1.png: entry 1 is (0, 200, 200) in its palette, but (200, 0, 200) in the palette of" in problem
    assert "masks_hold: colours" in problem
    by_colours = folder(
        tmp_path,
        lambda path, index: None,
        masks_hold="colours",
        palette=[list(BLACK), list(cyan), list(pink)],
    )
    assert list(by_colours.problems()) == []
    labels = everything(by_colours)
    assert labels["1"][0][:3] == [0, 1, 2] and labels["0"][0][:3] == [0, 2, 1]


def test_the_same_palette_of_other_colours_in_all_masks_is_valid(tmp_path: Path) -> None:
    def save(path: Path, index: int) -> None:
        indexed(path, [BLACK, BLUE, (9, 8, 7), (64, 0, 0), (0, 64, 0)][: 3 + index % 3])

    dataset = folder(tmp_path, save)
    assert list(dataset.problems()) == [] and everything(dataset)["0"][0][:3] == [0, 1, 2]


def test_one_bit_masks_are_ids_but_ambiguous_among_deeper_masks(tmp_path: Path) -> None:
    def one_bit(path: Path, index: int) -> None:
        Image.fromarray(np.arange(54).reshape(6, 9) % 2 > 0).save(path)

    assert everything(folder(tmp_path / "a", one_bit))["0"][0][:2] == [0, 1]

    def mixed(path: Path, index: int) -> None:
        one_bit(path, index) if index else Image.fromarray(np.full((6, 9), 2, np.uint8)).save(path)

    with pytest.raises(UserError, match="save it with 8 bits"):
        everything(folder(tmp_path / "b", mixed))
