"""COCO's JSON: polygons, run lengths, crowds and panoptic PNGs, against COCO's own code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from pipeline.datasets.coco import Coco
from pipeline.errors import UserError

Write = Callable[..., Path]
SIZE = (12, 16)
TRAIN = "annotations/instances_train2017.json"


@pytest.fixture
def root(tmp_path: Path, makers: dict[str, Callable[[Path], dict[str, Any]]]) -> Path:
    makers["coco"](tmp_path)
    return tmp_path


def change(root: Path, edit: Callable[[dict[str, Any]], object], *, file: str = TRAIN) -> None:
    data = json.loads((root / file).read_text())
    edit(data)
    (root / file).write_text(json.dumps(data))


def test_a_small_root_to_the_pixel(root: Path) -> None:
    """Two polygons are one object; smaller objects are on top; a crowd has its class."""
    dataset = Coco(root=str(root))
    assert dataset.labels.names == ("car", "road", "sky")
    expected = np.full(SIZE, 255)
    expected[2:6, 2:10] = expected[8:12, 0:4] = 0
    expected[:2] = 2
    expected[:, :2] = 1
    assert np.array_equal(dataset.read("train", f"{1:012d}")[1], expected)


def test_masks_are_those_of_cocos_own_code(root: Path) -> None:
    outline = [1.3, 2.7, 9.9, 0.4, 14.2, 8.8, 6.1, 11.5, 3.3, 7.2]
    change(root, lambda data: data["annotations"][0].update(segmentation=[outline]))
    api = COCO(str(root / TRAIN))
    dataset = Coco(root=str(root), order="file", background="other")
    expected = np.zeros(SIZE)
    for annotation in api.loadAnns(api.getAnnIds(imgIds=1)):
        train = {3: 1, 7: 2, 90: 3}[annotation["category_id"]]
        expected[api.annToMask(annotation).astype(bool)] = train
    assert np.array_equal(dataset.read("train", f"{1:012d}")[1], expected)


def test_categories_are_merged_by_name(root: Path) -> None:
    dataset = Coco(root=str(root), classes={"ground": ["road", "car"]}, rest="skip", background="other")
    assert dataset.labels.names == ("other", "ground")
    assert np.unique(dataset.read("val", f"{3:012d}")[1]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["cra"]}, "label 'cra' is not declared; did you mean 'car'?"),
        ({"annotations": {"train": TRAIN}}, r"annotations: got \['train'\]"),
        ({"images": {"train": "train2017"}}, r"images: got \['train'\]"),
    ],
)
def test_options_that_contradict_are_refused(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Coco(root=str(root), **options)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data["annotations"][0].update(category_id=4), "unknown category ids [4]; add them to categories"),
        (
            lambda data: data["annotations"][0].update(image_id=9),
            "annotations of unknown images [9]; add them to images",
        ),
        (lambda data: data["images"][0].update(file_name="../../x.jpg"), "'../../x.jpg' points outside"),
        (lambda data: data["images"].append(data["images"][0] | {"id": 8}), "and another image are both 000000000001"),
        (lambda data: data["categories"][0].update(name="car"), "category 7 is 'road', but 'car' in another place"),
        (lambda data: data.pop("images"), "not in COCO's format (KeyError('images'))"),
        (lambda data: data["annotations"].append(3), "not in COCO's format"),
    ],
)
def test_errors_of_a_file_are_reported(root: Path, edit: Callable[[dict[str, Any]], object], message: str) -> None:
    change(root, edit)
    assert any(message in problem for problem in Coco(root=str(root)).problems()), Coco(root=str(root)).problems()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "no segmentation, only a box"),
        (None, "no segmentation, only a box"),
        ([[1, 2, 3, 4]], "2 points; allowed: 3 or more"),
        ([[0, 0, 5, 0, float("nan"), 5]], "finite"),
        ([[0, 0, 5, 0, 900, 5]], "drawn on an image of another size"),
        (
            {"size": [16, 12], "counts": [192]},
            r"run lengths for an image of \[16, 12\] .*, but the image is \[12, 16\]",
        ),
        ({"size": [12, 16], "counts": [191]}, "the run lengths sum to 191"),
        ({"size": [12, 16], "counts": "~~"}, "damaged run lengths"),
        ({"size": [12, 16]}, "damaged \\(KeyError"),
    ],
)
def test_segmentations_that_cannot_be_drawn(root: Path, segmentation: Any, message: str) -> None:
    change(root, lambda data: data["annotations"][0].update(segmentation=segmentation))
    with pytest.raises(UserError, match=r"instances_train2017\.json: 000000000001\.jpg: shape 1 \(car\): .*" + message):
        Coco(root=str(root)).read("train", f"{1:012d}")


def test_one_file_is_divided_by_shares_or_lists(tmp_path: Path, write_image: Write) -> None:
    """As CVAT and Label Studio export COCO: one file, one folder."""
    for index in range(8):
        write_image(tmp_path / f"images/{index}.png", np.full((*SIZE, 3), index, np.uint8))
    images = [{"id": i, "file_name": f"{i}.png", "height": 12, "width": 16} for i in range(8)]
    outline = [[0, 0, 8, 0, 8, 12, 0, 12]]
    annotations = [{"id": i, "image_id": i, "category_id": 1, "segmentation": outline} for i in range(8)]
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "road"}]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "all.json").write_text(json.dumps(data))
    options: dict[str, Any] = {"root": str(tmp_path), "annotations": "all.json", "images": "images"}
    divided = Coco(**options, sequence=".+", shares={"val": 0.4})
    assert divided.problems() == () and sum(map(len, divided.splits().values())) == 8
    (tmp_path / "train.txt").write_text("images/0.png\n1.png\n2\n")
    (tmp_path / "val.txt").write_text("3\n")
    listed = Coco(**options, lists={"train": "train.txt", "val": "val.txt"})
    assert listed.splits() == {"train": ["0", "1", "2"], "val": ["3"]}


@pytest.fixture
def panoptic(tmp_path: Path, write_image: Write) -> dict[str, Any]:
    """Ids that need all three channels; the second car is a segment of its own."""
    ids = np.zeros(SIZE, np.int64)
    ids[:6], ids[6:, :8], ids[6:, 8:12] = 1, 258, 70000
    segments = [{"id": 1, "category_id": 5}, {"id": 258, "category_id": 2}, {"id": 70000, "category_id": 2}]
    categories = [{"id": 2, "name": "car", "isthing": 1}, {"id": 5, "name": "sky", "isthing": 0}]
    for split in ("train", "val"):
        write_image(tmp_path / split / "a" / f"{split}.jpg", np.full((*SIZE, 3), len(split), np.uint8))
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        write_image(tmp_path / f"panoptic_{split}/a/{split}.png", rgb)
        data = {
            "images": [{"id": 1, "file_name": f"a/{split}.jpg", "height": 12, "width": 16}],
            "annotations": [{"image_id": 1, "file_name": f"a/{split}.png", "segments_info": segments}],
            "categories": categories,
        }
        (tmp_path / f"panoptic_{split}.json").write_text(json.dumps(data))
    annotations = {split: f"panoptic_{split}.json" for split in ("train", "val")}
    return {"root": str(tmp_path), "annotations": annotations, "images": {"train": "train", "val": "val"}}


def test_things_and_stuff_of_a_panoptic_file(panoptic: dict[str, Any]) -> None:
    dataset = Coco(**panoptic)
    expected = np.full(SIZE, 255)
    expected[:6], expected[6:, :12] = 1, 0
    assert dataset.problems() == () and dataset.labels.names == ("car", "sky")
    assert np.array_equal(dataset.read("train", "a__train")[1], expected)
    assert (Coco(**panoptic, background="other").read("val", "a__val")[1][6:, 12:] == 0).all()


def test_ids_without_a_segment_and_masks_of_one_channel(panoptic: dict[str, Any], write_image: Write) -> None:
    root = Path(panoptic["root"])
    change(root, lambda data: data["annotations"][0]["segments_info"].pop(), file="panoptic_train.json")
    with pytest.raises(UserError, match=r"a/train\.png: ids \[70000\] are not in segments_info"):
        Coco(**panoptic).read("train", "a__train")
    write_image(root / "panoptic_val/a/val.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(UserError, match=r"a/val\.png: one channel; allowed: RGB"):
        Coco(**panoptic).read("val", "a__val")
    another = {"id": 2, "file_name": "b.jpg", "height": 12, "width": 16}
    change(root, lambda data: data["images"].append(another), file="panoptic_val.json")
    assert any("(b.jpg) has no panoptic annotation" in problem for problem in Coco(**panoptic).problems())


def test_other_categories_of_a_panoptic_file_are_errors(panoptic: dict[str, Any]) -> None:
    (problem,) = Coco(**panoptic, classes=["car"]).problems()
    assert problem.startswith("label 'sky' belongs to no class (") and "rest: skip" in problem
    assert np.unique(Coco(**panoptic, classes=["car"], rest="ignore").read("train", "a__train")[1]).tolist() == [0, 255]


def test_labels_are_compared_in_composed_unicode(root: Path) -> None:
    for file in (TRAIN, "annotations/instances_val2017.json"):
        change(root, lambda data: data["categories"][0].update(name="e\u0301te\u0301"), file=file)
    dataset = Coco(root=str(root), classes=["\u00e9t\u00e9"], rest="skip", background="other")
    assert not dataset.problems() and dataset.labels.names == ("other", "\u00e9t\u00e9")
    expected = np.zeros(SIZE)
    expected[:, :2] = 1  # the first category, the two left columns
    assert np.array_equal(dataset.read("train", f"{1:012d}")[1], expected)
