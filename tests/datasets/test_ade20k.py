"""ADE20K: train ids are ids minus one; names and colours are those of the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import datasets
from pipeline.datasets.ade20k import ADE20K
from pipeline.errors import UserError

#: Lines of the benchmark's objectInfo150.txt, by number.
OFFICIAL = {
    1: "wall", 2: "building", 3: "sky", 4: "floor", 5: "tree", 6: "ceiling", 7: "road", 8: "bed", 12: "sidewalk",
    13: "person", 20: "chair", 21: "car", 44: "signboard", 81: "bus", 88: "streetlight", 97: "escalator", 103: "van",
    126: "pot", 128: "bicycle", 137: "traffic light", 150: "flag",
}  # fmt: skip
#: Rows of its color150.mat.
COLOURS = {1: (120, 120, 120), 3: (6, 230, 230), 21: (0, 102, 200), 103: (163, 255, 0), 150: (92, 0, 255)}


@pytest.fixture
def root(makers: dict[str, Callable[[Path], Any]], tmp_path: Path) -> Path:
    makers["ade20k"](tmp_path)
    return tmp_path


def test_zero_is_ignored_and_the_other_ids_decrease_by_one(root: Path) -> None:
    dataset = ADE20K(root=str(root))
    assert dataset.splits() == {"train": ["ADE_train_1", "ADE_train_2"], "val": ["v"]}
    raw = np.asarray(Image.open(root / "annotations/training/ADE_train_1.png"))
    assert set(np.unique(raw)) == set(range(151))
    expected = [[255 if index == 0 else index - 1 for index in row] for row in raw.tolist()]
    assert dataset.read("train", "ADE_train_1")[1].tolist() == expected


def test_names_and_colours_have_their_official_numbers() -> None:
    labels = ADE20K.labels
    assert labels.num_classes == 150
    assert {number: labels.names[number - 1] for number in OFFICIAL} == OFFICIAL
    assert {number: labels.palette[number - 1] for number in COLOURS} == COLOURS


def test_original_ids_restore_the_masks(root: Path) -> None:
    dataset = ADE20K(root=str(root))
    raw = np.asarray(Image.open(root / "annotations/training/ADE_train_1.png"))
    assert np.array_equal(dataset.labels.to_original()[dataset.read("train", "ADE_train_1")[1]], raw)


def test_an_id_above_150_is_refused(root: Path, write_image: Callable[..., Path]) -> None:
    write_image(root / "annotations/validation/v.png", np.full((12, 16), 151, np.uint8))
    with pytest.raises(UserError, match=r"v\.png: unknown label ids \[151\]; allowed: 0 \(ignored\) and 1\.\.150"):
        ADE20K(root=str(root)).read("val", "v")


def test_missing_folders_and_twins_are_named(root: Path, write_image: Callable[..., Path]) -> None:
    write_image(root / "images/training/ADE_train_1.png", np.zeros((12, 16, 3), np.uint8))
    (root / "annotations/validation/v.png").unlink()
    (root / "annotations/validation").rmdir()
    errors = "\n".join(ADE20K(root=str(root)).problems())
    assert "ADE_train_1.png: ADE_train_1.jpg has the same stem; keep one" in errors
    assert "annotations/validation: cannot be read (No such file or directory); the data set needs this" in errors
    assert "v.jpg: no mask" in errors


def test_labels_of_a_real_image_are_correct(samples: dict[str, dict[str, Any]]) -> None:
    dataset = datasets.build("ade20k", samples["ade20k"])
    _, label = dataset.read("val", "ADE_val_00000003")  # a street with a bus and a van
    names = {dataset.labels.names[index] for index in np.unique(label) if index != 255}
    assert {"sky", "tree", "road", "sidewalk", "car", "bus", "streetlight", "van", "signboard"} <= names
    assert dataset.labels.names[label[30, 100]] == "sky" and dataset.labels.names[label[250, 250]] == "road"
