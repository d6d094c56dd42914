"""`segpress inspect` prints the content and the errors of a data set, draws a sheet, and writes no data set."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console
from ruamel.yaml import YAML

from pipeline import datasets, verbs
from pipeline.errors import UserError
from pipeline.frames import write_png
from pipeline.labels import LabelSpec
from pipeline.preparation import contact_sheet
from pipeline.preparation.inspection import show
from pipeline.preparation.survey import Survey, survey

ROOT = Path(__file__).parents[2]
STREETS = {"train": 3, "val": 2, "sequence": 0, "size": [64, 96], "seed": 4}


@pytest.fixture(scope="module")
def streets() -> tuple[Any, Survey]:
    dataset = datasets.build("streets", STREETS)
    return dataset, survey(dataset, progress=lambda *_: None)


def printed(result: Survey) -> str:
    stream = io.StringIO()
    show("streets", result, Console(file=stream, width=120))
    return stream.getvalue()


def test_the_tables_show_the_counts(streets: tuple[Any, Survey]) -> None:
    _, result = streets
    text = printed(result)
    assert f"streets: {result.labels.num_classes} classes" in text and "no errors" in text.splitlines()
    assert "64x96 (3)" in text and "64x96 (2)" in text
    shown = {line.split("■ ")[1].split()[0]: line for line in text.splitlines() if "■ " in line}
    (absent,) = [line for line in text.splitlines() if line.startswith("warning: train: ")] or [""]
    for index, name in enumerate(result.labels.names):
        if result.counts["train"].pixels[index]:
            assert f"{result.counts['train'].shares()[index]:.2%}" in shown[name], name
        else:
            assert name in absent.rpartition(": ")[2].split(", ")


def test_every_error_is_printed_in_one_line(streets: tuple[Any, Survey]) -> None:
    _, result = streets
    problems = [f"train/{number}: /a/path [red]with brackets[/] that is long {'x' * 200}" for number in range(70)]
    lines = printed(Survey(result.labels, result.names, result.counts, problems)).splitlines()
    assert "70 errors" in lines and all(f"  {problem}" in lines for problem in problems)


@pytest.mark.parametrize("name", ["[void]", "[/bg]", "[red]", "a[0]", "$x$", "<b>", "\\[x]"])
def test_class_names_are_printed_unchanged(name: str, tmp_path: Path) -> None:
    labels = LabelSpec(names=("road", name), palette=((1, 2, 3), (200, 0, 0)))

    class Two(datasets.Dataset):
        def splits(self) -> dict[str, Any]:
            return {"train": ["a"], "val": ["b"]}

        def read(self, split: str, sample: str) -> Any:
            return np.full((8, 9, 3), 1 + (sample == "a"), np.uint8), np.full((8, 9), sample == "a", np.uint8)

    Two.labels = labels
    result = survey(Two(), progress=lambda *_: None)
    result.warnings.append(f"masks/{name}.png: odd")
    text = printed(result)
    assert (
        f"■ {name}" in text
        and f"val: 1 class is absent (no IoU): {name}" in text
        and f"warning: masks/{name}.png: odd" in text
    )
    assert contact_sheet.write_sheet(Two(), result, tmp_path / "sheet.png", name=name, count=2, seed=0) == 2


def test_a_sheet_is_complete_and_has_the_same_bytes_each_time(streets: tuple[Any, Survey], tmp_path: Path) -> None:
    dataset, result = streets
    sizes = {}
    for count, file in ((5, "a.png"), (5, "b.png"), (1, "one.png")):
        assert contact_sheet.write_sheet(dataset, result, tmp_path / file, name="streets", count=count, seed=1) == count
        image = cv2.imread(str(tmp_path / file))
        assert image is not None
        sizes[file] = image.shape
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sizes["a.png"][0] > sizes["one.png"][0] and sorted(path.name for path in tmp_path.iterdir()) == [
        "a.png", "b.png", "one.png",
    ]  # fmt: skip
    with pytest.raises(UserError, match="--samples: got 0; allowed: 1 or more"):
        contact_sheet.write_sheet(dataset, result, tmp_path / "c.png", name="streets", count=0, seed=1)


def test_splits_take_turns_and_the_seed_decides() -> None:
    names = {"train": [f"t{number}" for number in range(20)], "val": ["v0", "v1"]}
    first, again, other = (contact_sheet.turns(names, seed) for seed in (0, 0, 1))
    assert first == again != other and len(set(first)) == 22
    assert [split for split, _ in first[:5]] == ["train", "val", "train", "val", "train"]


def test_an_overlay_shows_class_colours_inside_and_stripes_where_it_is_ignored() -> None:
    labels = LabelSpec(names=("road", "car"), palette=((200, 0, 0), (0, 0, 200)))
    label = np.zeros((30, 40), np.uint8)
    label[:, 20:] = 1
    label[20:] = 255
    shot = contact_sheet.shot("x", np.full((30, 40, 3), 100, np.uint8), label, labels)
    expected = 100 * (1 - contact_sheet.OPACITY) + np.array([200, 0, 0]) * contact_sheet.OPACITY
    assert np.abs(shot.overlay[5, 5] - expected).max() <= 1
    assert np.abs(shot.overlay[5, 30] - expected[::-1]).max() <= 1
    assert {tuple(pixel) for pixel in shot.overlay[24, :].tolist()} == {(33, 33, 33), (100, 100, 100)}
    assert shot.pixels == {0: 333333, 1: 333333, 255: 333333}


def test_the_verb_ends_with_1_when_there_are_problems_and_writes_the_sheet_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("a", 0), ("b", 1), ("c", 2)):
        write_png(tmp_path / f"raw/images/{name}.png", np.full((12, 16, 3), value, np.uint8))
        mask = np.full((12, 16), value, np.uint8)
        mask[0] = 0
        mask[1] = 1
        write_png(tmp_path / f"raw/masks/{name}.png", mask)
    (tmp_path / "raw/train.txt").write_text("a\nc\n")
    (tmp_path / "raw/val.txt").write_text("b\n")
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    params["dataset"] = "folder"
    params["datasets"]["folder"] = {
        "root": str(tmp_path / "raw"),
        "classes": ["road", "car"],
        "palette": [[128, 64, 128], [0, 0, 142]],
        "lists": {"train": "train.txt", "val": "val.txt"},
    }
    params["losses"]["kd"]["weight"] = "1"  # options of other plugins are not checked
    YAML().dump(params, tmp_path / "params.yaml")
    arguments = ["--params", str(tmp_path / "params.yaml"), "--sheet", str(tmp_path / "sheet.png")]
    assert verbs.run("inspect", arguments) == 1
    out = capsys.readouterr().out
    assert "1 error" in out.splitlines() and "train/c: " in out and "label ids [2]" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "raw", "sheet.png"]
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None
