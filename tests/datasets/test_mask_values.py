"""Masks of 0 and 255, of many ids and of many classes follow the options; a hint if the options miss a class."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from pipeline.datasets.folder import Folder
from pipeline.errors import UserError
from pipeline.preparation.prepare import prepare
from pipeline.preparation.survey import Survey, survey

Write = Callable[..., Path]
Make = Callable[..., Callable[..., Folder]]
CRACK: dict[str, Any] = {"classes": ["background", "crack"], "palette": ["#000000", "#ffffff"]}


@pytest.fixture
def make(tmp_path: Path, write_image: Write) -> Make:
    """``make(values)`` writes four images, and masks with these values as columns.

    It returns a function that builds the data set from options.
    """

    def write(values: list[int], dtype: Any = np.uint8) -> Callable[..., Folder]:
        for number in range(4):
            image = np.random.default_rng(number).integers(0, 256, (4, len(values), 3), np.uint8)
            write_image(tmp_path / f"images/{number}.png", image)
            write_image(tmp_path / f"masks/{number}.png", np.array([values] * 4, dtype))
        return lambda **options: Folder(**{"root": str(tmp_path), "sequence": ".+", "shares": {"val": 0.5}, **options})

    return write


def label(dataset: Folder) -> Any:
    return dataset.read("train", dataset.splits()["train"][0])[1][0].tolist()


def surveyed(dataset: Folder) -> Survey:
    return survey(dataset, progress=lambda *_: None)


def hint(dataset: Folder) -> str:
    """The warning or error about classes without a pixel, if there is one."""
    result = surveyed(dataset)
    return "".join(line for line in (*result.warnings, *result.problems) if "no pixel, but" in line)


def test_255_may_be_a_class_without_the_option_ignore(make: Make) -> None:
    dataset = make([0, 255])(**CRACK, ids={"background": [0], "crack": [255]})
    assert label(dataset) == [0, 1] and surveyed(dataset).problems == [] and hint(dataset) == ""
    assert dataset.labels.to_original()[[0, 1, 255]].tolist() == [0, 255, 1]


def test_the_first_class_need_not_be_named(make: Make) -> None:
    dataset = make([0, 255])
    assert label(dataset(**CRACK, ids={"crack": [255]})) == [0, 1]
    assert label(dataset(**CRACK, ids={"crack": [0], "background": [255]})) == [1, 0]
    with pytest.raises(UserError, match=r"unknown label ids \[0\]; allowed: 1, 255"):
        label(dataset(**CRACK, ids={"crack": [255], "background": [1]}))


def test_255_is_ignored_where_no_class_has_it(make: Make) -> None:
    dataset = make([0, 1, 255])(**CRACK)
    assert label(dataset) == [0, 1, 255] and hint(dataset) == ""


@pytest.mark.parametrize("options", [{}, {"ignore": [255]}, {"ignore": [], "rest": "ignore"}])
def test_a_class_that_is_ignored_by_mistake_is_reported_with_the_line_to_write(
    make: Make, options: dict[str, Any]
) -> None:
    dataset = make([0, 255])
    message = hint(dataset(**CRACK, **options))
    assert message.startswith("crack has no pixel, but masks hold 255, which is ignored; if 255 means crack")
    line = re.search(r"set datasets\.folder\.ids: (\{.*\})( and remove 255 from datasets\.folder\.ignore)?$", message)
    assert line and bool(line[2]) == (options.get("ignore") == [255])
    followed = dataset(**CRACK, **{**options, "ignore": []}, ids=YAML(typ="safe").load(line[1]))
    assert label(followed) == [0, 1] and hint(followed) == ""


def test_prepare_gives_the_hint_with_and_without_errors(make: Make, tmp_path: Path) -> None:
    labels = {"classes": ["background", "crack", "spall"], "palette": ["#000000", "#ffffff", "#ff0000"]}
    message: list[str] = []
    arguments: dict[str, Any] = {"name": "folder", "options": {}, "progress": lambda *_: None, "warn": message.append}
    prepare(make([0, 1, 255])(**labels), tmp_path / "out", **arguments)
    assert "spall has no pixel, but masks hold 255" in "".join(message)
    with pytest.raises(UserError, match=r"split val: all 4 (.*\n)+  spall has no pixel"):
        prepare(make([0, 1, 255])(**labels, sequence=None), tmp_path / "again", **arguments)


def test_several_classes_or_values_get_no_line_that_may_be_wrong(make: Make) -> None:
    labels = {"classes": ["a", "b", "c: d"], "palette": ["#000", "#fff", "#f00"]}
    assert "b, c: d have no pixel, but masks hold 255, which is ignored; if one of these" in hint(
        make([0, 255])(**labels)
    )
    assert '"c: d": [255]' in hint(make([0, 1, 255])(**labels))
    assert "masks hold 7, 255, which are ignored; if one" in hint(make([0, 1, 7, 255])(**labels, rest="ignore"))
    assert hint(make([0, 1])(**labels)) == "", "nothing is ignored: the class is only rare"


def test_ids_of_16_bits(make: Make) -> None:
    ids = {"background": [0, 65535], "crack": [256, 4000]}
    dataset = make([0, 256, 4000, 65535, 255], np.uint16)(**CRACK, ids=ids)
    assert label(dataset) == [0, 1, 1, 0, 255]
    with pytest.raises(UserError, match=r"label ids \[4000\]; allowed: 0, 255\.\.256, 65535; add it to a class in ids"):
        label(make([4000], np.uint16)(**CRACK, ids={"background": [0, 65535], "crack": [256]}))


@pytest.mark.parametrize("count", [255, 256])
def test_255_classes_fit_and_256_are_refused(make: Make, count: int) -> None:
    values = list(range(count)) if count < 256 else [0]
    dataset = make([*values, 255])
    labels = {
        "classes": [f"c{i}" for i in range(count)],
        "palette": [f"#{i:02x}0080" for i in range(255)] + ["#000001"],
    }
    labels["palette"] = labels["palette"][:count]
    if count == 255:
        assert label(dataset(**labels)) == [*range(255), 255]
        colours = {**labels, "masks_hold": "colours"}
        assert dataset(**colours).labels.num_classes == 255
    else:
        with pytest.raises(UserError, match="got 256 classes; allowed: 255"):
            dataset(**labels)


def test_overlapping_options_are_one_error(make: Make) -> None:
    with pytest.raises(UserError) as caught:
        make([0])(**CRACK, ids={"background": [0, 3], "crack": [255, 3]}, ignore=[255, 0, 9])
    assert str(caught.value).splitlines() == [
        "datasets.folder: 3 problems",
        "  ids.crack: got 3; allowed: ids in 0..65535 that belong to no other class",
        "  ignore: got 255, which is an id of class 'crack'; remove it from ignore or from that class",
        "  ignore: got 0, which is an id of class 'background'; remove it from ignore or from that class",
        "Correct these values under datasets.folder in params.yaml.",
    ]


@pytest.mark.parametrize("form", ["L", "1", "RGB", "P"])
def test_black_and_white_as_colours_in_any_form(make: Make, tmp_path: Path, form: str) -> None:
    dataset = make([0, 255])
    for file in (tmp_path / "masks").iterdir():
        Image.open(file).convert(form).save(file)
    folder = dataset(**CRACK, masks_hold="colours")
    assert label(folder) == [0, 1] and surveyed(folder).problems == [] and surveyed(folder).warnings == []


def test_greys_are_colours_and_an_unknown_one_is_named(make: Make) -> None:
    dataset = make([0, 128, 255])
    three = {"classes": ["a", "b", "c"], "palette": ["#000", "#808080", "#fff"], "masks_hold": "colours"}
    assert label(dataset(**three)) == [0, 1, 2]
    assert label(dataset(**CRACK, masks_hold="colours", ignore=["#808080"])) == [0, 255, 1]
    with pytest.raises(UserError, match=r"unknown colours \[\(128, 128, 128\)\]; allowed: those of palette and ignore"):
        label(dataset(**CRACK, masks_hold="colours"))


def test_one_bit_is_0_and_1_or_0_and_255_as_ids_say(make: Make, tmp_path: Path) -> None:
    dataset = make([0, 255])
    for file in (tmp_path / "masks").iterdir():
        Image.open(file).convert("1").save(file)
    assert label(dataset(**CRACK)) == [0, 1]
    assert label(dataset(**CRACK, ids={"crack": [255]})) == [0, 1]
