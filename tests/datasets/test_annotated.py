"""The shared code of annotation tools, tested with labelme's files: order, background, labels, names, splits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.labelme import Labelme
from pipeline.errors import UserError
from pipeline.preparation.prepare import prepare

Write = Callable[..., Path]
IGNORED = 255


def rectangle(label: str, left: int, top: int, right: int, bottom: int) -> dict[str, Any]:
    return {"label": label, "points": [[left, top], [right, bottom]], "shape_type": "rectangle"}


SKY = rectangle("sky", 0, 0, 16, 6)
SUN = rectangle("sun", 4, 2, 6, 4)


@pytest.fixture
def write(tmp_path: Path, write_image: Write) -> Callable[..., Path]:
    """``write(name, *shapes, **data)`` writes an image 12x16 and its JSON file."""

    def write_pair(name: str, *shapes: dict[str, Any], **data: Any) -> Path:
        write_image(tmp_path / f"{name}.png", np.random.default_rng(len(name)).integers(0, 256, (12, 16, 3), np.uint8))
        file = tmp_path / f"{name}.json"
        image = {"imagePath": f"{Path(name).name}.png", "imageHeight": 12, "imageWidth": 16}
        file.write_text(json.dumps({"shapes": shapes, **image, **data}))
        return file

    return write_pair


def labelme(root: Path, **options: Any) -> Labelme:
    defaults = {"classes": ["sky", "sun"], "sequence": ".+", "shares": {"val": 0.5}}
    return Labelme(**{"root": str(root), **defaults, **options})


def label_of(dataset: Labelme, name: str) -> Any:
    (split,) = (split for split, names in dataset.splits().items() if name in names)
    return dataset.read(split, name)[1]


@pytest.mark.parametrize(
    ("order", "shapes", "train"),
    [("file", (SKY, SUN), 1), ("file", (SUN, SKY), 0), ("area", (SUN, SKY), 1), ("area", (SKY, SUN), 1)],
)
def test_shapes_are_painted_in_the_order_of_the_option(
    tmp_path: Path, write: Any, order: str, shapes: tuple[Any, ...], train: int
) -> None:
    write("a", *shapes)
    label = label_of(labelme(tmp_path, order=order), "a")
    expected = np.full((12, 16), IGNORED)
    expected[:6] = 0
    expected[2:4, 4:6] = train
    assert np.array_equal(label, expected)


def test_overlaps_of_different_classes_can_be_refused(tmp_path: Path, write: Any) -> None:
    write("a", SKY, SUN)
    write("b", SKY, SKY)
    dataset = labelme(tmp_path, order="refuse")
    with pytest.raises(UserError, match=r"a\.json: 4 pixels of a shape \(sun\) also belong to another class; .*order"):
        label_of(dataset, "a")
    assert (label_of(dataset, "b")[:6] == 0).all()


def test_pixels_outside_all_shapes_are_ignored_or_background(tmp_path: Path, write: Any) -> None:
    write("a", SUN)
    assert np.unique(label_of(labelme(tmp_path), "a")).tolist() == [1, IGNORED]
    added = labelme(tmp_path, background="ground")
    assert added.labels.names == ("ground", "sky", "sun")
    assert np.unique(label_of(added, "a")).tolist() == [0, 2]
    named = labelme(tmp_path, classes={"sky": ["sky"], "ground": ["soil"], "sun": ["sun"]}, background="ground")
    assert named.labels.names == ("sky", "ground", "sun") and label_of(named, "a")[0, 0] == 1


def test_labels_are_merged(tmp_path: Path, write: Any) -> None:
    write("a", SKY, SUN)
    merged = labelme(tmp_path, classes={"above": ["sky", "sun"], "below": ["road"]})
    assert np.unique(label_of(merged, "a")).tolist() == [0, IGNORED]


def test_every_unknown_label_is_named_once(tmp_path: Path, write: Any) -> None:
    write("a", SKY, rectangle("tree", 0, 6, 3, 9), rectangle("tree", 3, 6, 6, 9), rectangle("Sun", 0, 0, 2, 2))
    write("bb", rectangle("tree", 0, 0, 4, 4))
    tree, sun = sorted(
        (problem for problem in labelme(tmp_path).problems() if problem.startswith("label ")), reverse=True
    )
    assert tree.startswith("label 'tree' belongs to no class (3 shapes, the first in ") and "rest: skip" in tree
    assert sun.startswith("label 'Sun' belongs to no class (1 shapes")


@pytest.mark.parametrize(("rest", "expected"), [("ignore", IGNORED), ("skip", 1)])
def test_other_labels_are_ignored_or_skipped(tmp_path: Path, write: Any, rest: str, expected: int) -> None:
    write("a", SKY, rectangle("tree", 0, 0, 2, 2))
    dataset = labelme(tmp_path, rest=rest, background="ground")
    assert not any("label " in problem for problem in dataset.problems())
    assert label_of(dataset, "a")[0, 0] == expected


def test_labels_to_ignore_are_painted_as_ignored(tmp_path: Path, write: Any) -> None:
    write("a", SKY, SUN)
    assert label_of(labelme(tmp_path, classes=["sky"], ignore=["sun"], background="ground"), "a")[2, 4] == IGNORED


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": None}, r"classes: not set; labels in the files: \['sky', 'sun'\]"),
        ({"classes": {"a": ["sky"], "b": ["sky", "sun"]}}, "'sky' also belongs to another class"),
        ({"ignore": ["sun"]}, "ignore: 'sun' also belongs to a class"),
        ({"classes": []}, "classes: empty"),
        ({"palette": ["red", "#00f"]}, "got 'red'; allowed: .red, green, blue."),
        ({"palette": [[0, 0, 0]]}, "palette has 1 colours for 2 classes"),
        ({"shares": {"train": 0.5}}, "shares: got"),
        ({"lists": {"train": "train.txt"}}, "lists: got"),
        ({"sequence": "("}, "not a regular expression"),
        ({"annotations": "/x/*.json"}, "annotations: got"),
    ],
)
def test_options_that_contradict_are_refused(tmp_path: Path, write: Any, options: dict[str, Any], message: str) -> None:
    write("a", SKY, SUN)
    with pytest.raises(UserError, match=message):
        labelme(tmp_path, **options)


def test_classes_and_images_without_shapes_give_warnings(tmp_path: Path, write: Any) -> None:
    write("a", SKY)
    write("bb")
    dataset = labelme(tmp_path, classes=["skyy"], rest="ignore", background="ground")
    label, image = dataset.warnings()
    assert "no shape has the label 'skyy'; did you mean 'sky'?" in label
    assert image.startswith("1 images have no shape, for example ") and image.endswith("all their pixels are ground")
    assert (label_of(dataset, "bb") == 0).all()


@pytest.mark.parametrize(
    "name", ["../a.png", "..\\..\\a.png", "/etc/passwd", "C:\\a.png", "", "x/../../a.png", "a\x00.png"]
)
def test_names_that_lead_out_of_the_root_are_refused(tmp_path: Path, write: Any, name: str) -> None:
    file = write("a", SKY, imagePath=name)
    (problem,) = (problem for problem in labelme(tmp_path).problems() if "imagePath" in problem)
    assert problem.startswith(f"{file}: imagePath: ") and "points outside" in problem
    assert ("set root to a folder that contains both" in problem) == name.startswith(("..", "x/"))


def test_an_image_of_another_size_is_an_error(tmp_path: Path, write: Any) -> None:
    write("a", SKY, imageHeight=24, imageWidth=32)
    with pytest.raises(UserError, match=r"a\.json: the annotation is for an image of 24x32; a\.png is 12x16"):
        label_of(labelme(tmp_path), "a")


def test_a_missing_image_is_an_error(tmp_path: Path, write: Any) -> None:
    write("a", SKY, imagePath="b.png")
    with pytest.raises(UserError, match=r"b\.png: no such file"):
        label_of(labelme(tmp_path), "a")


def test_the_size_of_the_annotation_decides_whether_an_image_is_rotated(tmp_path: Path, write: Any) -> None:
    """An image that is stored as 12x16, with EXIF orientation 6: viewers show it as 16x12."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, height, width in (("shown", 16, 12), ("stored", 12, 16)):
        write(name, SKY, imageHeight=height, imageWidth=width, imagePath=f"{name}.jpg")
        Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(tmp_path / f"{name}.jpg", exif=exif)
        assert label_of(labelme(tmp_path), name).shape == (height, width)


def test_folders_named_after_splits_are_the_splits(tmp_path: Path, write: Any) -> None:
    for name in ("train/a", "train/b", "valid/c", "test/d"):
        write(name, SKY, SUN)
    dataset = labelme(tmp_path, sequence=None)
    assert dataset.splits() == {"train": ["train__a", "train__b"], "val": ["valid__c"], "test": ["test__d"]}
    assert dataset.problems() == ()
    write("e", SKY)
    (problem,) = labelme(tmp_path, sequence=None).problems()
    assert "one sample (e) is in none of them; set in datasets.labelme lists" in problem
    renamed = labelme(tmp_path, sequence=None, splits={"train": ["train", "valid"], "val": ["test"]})
    assert renamed.splits() == {"train": ["train__a", "train__b", "valid__c"], "val": ["test__d"]}


def test_one_folder_is_no_sequence(tmp_path: Path, write: Any) -> None:
    for name in "abcdefgh":
        write(name, SKY, SUN)
    (problem,) = labelme(tmp_path, sequence=None).problems()
    assert "all 8 samples are in one folder" in problem and "set sequence: '.+'" in problem
    assert labelme(tmp_path).problems() == ()


def test_lists_name_images_or_samples(tmp_path: Path, write: Any) -> None:
    for name in ("x/a", "x/b", "x/c"):
        write(name, SKY, SUN)
    (tmp_path / "train.txt").write_text("x/a.png\nx/b\n")
    (tmp_path / "val.txt").write_text("x/c\n")
    lists = {"train": "train.txt", "val": "val.txt"}
    assert labelme(tmp_path, lists=lists).splits() == {"train": ["x__a", "x__b"], "val": ["x__c"]}
    (tmp_path / "val.txt").write_text("x/d\n")
    assert "val.txt:1: x/d: no image" in labelme(tmp_path, lists=lists).problems()[0]


def test_prepare_runs_and_reports_all_errors_together(tmp_path: Path, makers: Any) -> None:
    options = makers["labelme"](tmp_path / "raw")
    facts = prepare(Labelme(**options), tmp_path / "out", name="labelme", options=options, progress=lambda *_: None)
    assert facts["classes"] == ["road", "car", "sky"] and sum(facts["class_pixels"]["val"]) > 0
    for drive in "ab":
        file = tmp_path / "raw" / drive / "1.json"
        file.write_text(file.read_text().replace('"circle"', '"cuboid"').replace('"sky"', '"skies"'))
    with pytest.raises(UserError) as error:
        prepare(Labelme(**options), tmp_path / "again", name="labelme", options=options, progress=lambda *_: None)
    assert "3 problems" in str(error.value) and str(error.value).count("a cuboid of 2 points") == 2
    assert not (tmp_path / "again").exists()
