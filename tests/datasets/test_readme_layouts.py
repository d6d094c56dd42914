"""The layouts in the README can be prepared with the options in the README, and the test covers all of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline import datasets
from pipeline.errors import UserError
from pipeline.preparation.prepare import prepare
from pipeline.settings import plugin_options

SECTION = (Path(__file__).parents[2] / "README.md").read_text().split("## Your own data")[1].split("\n## ")[0]
ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", flags=re.MULTILINE)
LAYOUTS = {layout: (files, options) for layout, files, options in ROW.findall(SECTION.split("more options |")[1])}
DRIVES = ("monday", "tuesday", "friday", "sunday", "may", "june", "july", "august", "april", "march")
#: How to derive more file names from the example in the README.
PLACES: dict[str, list[tuple[str, str]]] = {
    "flat": [("/1", f"/{number}") for number in range(1, 13)],
    "split folders": [("train/", f"{split}/") for split in ("train", "val", "test")],
    "the split first": [("train/", f"{split}/") for split in ("train", "val", "test")],
    "drives": [("monday/", f"{drive}/") for drive in DRIVES],
    "lists": [("/1", f"/{number}") for number in (1, 2, 3)],
}
LISTS = {"train.txt": "1\nimages/2.jpg masks/2.png\n", "val.txt": "images/3.jpg\n"}


def options_of(layout: str) -> dict[str, Any]:
    """The options in a row, one in each pair of backticks."""
    options: dict[str, Any] = {}
    for text in re.findall(r"`([^`]+)`", LAYOUTS[layout][1]):
        options |= YAML(typ="safe").load(text)
    return options


@pytest.fixture
def base() -> dict[str, Any]:
    (block,) = (block for block in SECTION.split("```yaml\n")[1:] if block.startswith("dataset: folder"))
    loaded = YAML(typ="safe").load(block.split("```")[0])
    assert loaded["dataset"] == "folder" and set(loaded["datasets"]) == {"folder"}
    options: dict[str, Any] = loaded["datasets"]["folder"]
    return options


def make(root: Path, layout: str, write: Callable[..., Path], values: tuple[int, int]) -> None:
    """Images and masks of both values at the places of a layout."""
    image, mask = re.findall(r"`([^`]+)`", LAYOUTS[layout][0])
    for number, (old, new) in enumerate(PLACES[layout]):
        frame = np.random.default_rng(number).integers(0, 256, (4, 6, 3), np.uint8)
        write(root / image.replace(old, new), frame)
        write(root / mask.replace(old, new), np.array([[values[0]] * 3 + [values[1]] * 3] * 4, np.uint8))
    for name, text in LISTS.items():
        (root / name).write_text(text)


def prepared(root: Path, options: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    assert not list(plugin_options.problems({"datasets": {"folder": options}}, ["datasets"]))
    dataset = datasets.build("folder", {**options, "root": str(root)})
    return prepare(dataset, tmp_path / "out", name="folder", options=options, progress=lambda *_: None)


def test_every_layout_is_tested() -> None:
    assert set(LAYOUTS) == {*PLACES, "masks of 0 and 255"}


@pytest.mark.parametrize("values", [(0, 1), (0, 255)])
@pytest.mark.parametrize("layout", PLACES)
def test_a_layout_of_the_readme_is_prepared(
    tmp_path: Path, base: dict[str, Any], write_image: Callable[..., Path], layout: str, values: tuple[int, int]
) -> None:
    make(tmp_path / "raw", layout, write_image, values)
    options = {**base, **options_of(layout), **(options_of("masks of 0 and 255") if 255 in values else {})}
    facts = prepared(tmp_path / "raw", options, tmp_path)
    assert facts["splits"]["train"] and facts["splits"]["val"]
    assert sum(map(len, facts["splits"].values())) == len(PLACES[layout])
    assert all(pixels[0] == pixels[1] > 0 for pixels in facts["class_pixels"].values()), "half is crack everywhere"
    if "split" in layout:
        assert facts["splits"] == {split: [f"{split}__1"] for split in ("train", "val", "test")}
    if layout == "lists":
        assert facts["splits"] == {"train": ["1", "2"], "val": ["3"]}


@pytest.mark.parametrize("layout", ["flat", "the split first", "drives"])
def test_the_options_of_a_layout_are_needed(
    tmp_path: Path, base: dict[str, Any], write_image: Callable[..., Path], layout: str
) -> None:
    make(tmp_path / "raw", layout, write_image, (0, 1))
    with pytest.raises(UserError):
        prepared(tmp_path / "raw", base, tmp_path)
