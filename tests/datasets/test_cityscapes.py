"""Cityscapes: the official table of ids, and masks of one kind or of both kinds, which must agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline import datasets
from pipeline.datasets.cityscapes import Cityscapes
from pipeline.errors import UserError
from pipeline.frames import Array

#: trainId of every id, copied from the table of cityscapesscripts/helpers/labels.py.
OFFICIAL = {
    0: 255, 1: 255, 2: 255, 3: 255, 4: 255, 5: 255, 6: 255, 7: 0, 8: 1, 9: 255, 10: 255, 11: 2, 12: 3, 13: 4, 14: 255,
    15: 255, 16: 255, 17: 5, 18: 255, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15,
    29: 255, 30: 255, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
Write = Callable[..., Path]


@pytest.fixture
def root(makers: dict[str, Callable[[Path], Any]], tmp_path: Path) -> Path:
    makers["cityscapes"](tmp_path / "raw")
    return tmp_path / "raw"


def masks(root: Path) -> dict[str, Path]:
    return {path.name.split("_gtFine")[0]: path for path in sorted(root.rglob("*_labelIds.png"))}


def by_table(mask: Path) -> Array:
    raw = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    return np.vectorize(OFFICIAL.get)(raw).astype(np.uint8)


def twin(mask: Path) -> Path:
    return mask.with_name(mask.name.replace("labelIds", "labelTrainIds"))


def test_ids_follow_the_official_table(root: Path) -> None:
    dataset = Cityscapes(root=str(root))
    assert dataset.splits() == {
        "train": ["aachen_000000_000019", "aachen_000001_000019", "bremen_000002_000019"],
        "val": ["frankfurt_000003_000019"],
    }
    for split, names in dataset.splits().items():
        for name in names:
            assert np.array_equal(dataset.read(split, name)[1], by_table(masks(root)[name]))


def test_names_and_colours_are_the_official_ones() -> None:
    labels = Cityscapes.labels
    assert labels.names[:3] == ("road", "sidewalk", "building") and labels.names[16:] == (
        "train",
        "motorcycle",
        "bicycle",
    )
    assert labels.num_classes == 19
    known = {"road": (128, 64, 128), "traffic light": (250, 170, 30), "sky": (70, 130, 180), "rider": (255, 0, 0)}
    assert all(labels.palette[labels.names.index(name)] == colour for name, colour in known.items())


def test_original_ids_are_those_of_the_official_table() -> None:
    official = {train: raw for raw, train in reversed(OFFICIAL.items())}  # trainId2label: the first of several
    table = Cityscapes.labels.to_original()
    assert {train: int(table[train]) for train in official} == official
    assert official[255] == 0 and set(table[19:].tolist()) == {0}


def test_train_ids_alone_are_enough_and_both_must_agree(root: Path, write_image: Write) -> None:
    before = Cityscapes(root=str(root))
    expected = [before.read(split, name)[1] for split, names in before.splits().items() for name in names]
    for mask in masks(root).values():
        write_image(twin(mask), by_table(mask))
    both = Cityscapes(root=str(root))
    for mask in masks(root).values():
        assert np.array_equal(both.read_label(mask), by_table(mask))
        mask.unlink()
    alone = Cityscapes(root=str(root))
    labels = [alone.read(split, name)[1] for split, names in alone.splits().items() for name in names]
    assert all(np.array_equal(*pair) for pair in zip(expected, labels, strict=True))


def test_a_pixel_on_which_the_two_disagree_is_an_error(root: Path, write_image: Write) -> None:
    mask = masks(root)["aachen_000000_000019"]
    label = by_table(mask)
    label[0, 7] = 1  # id 7 is road, 0
    write_image(twin(mask), label)
    message = r"labelTrainIds\.png: 1 of 192 pixels differ from .*labelIds\.png \(by the official table of ids\)"
    with pytest.raises(UserError, match=message):
        Cityscapes(root=str(root)).read("train", "aachen_000000_000019")


def test_placeholders_and_unknown_ids_are_refused(root: Path, write_image: Write) -> None:
    one, two, *_ = masks(root).values()
    write_image(one, np.full((12, 16), 3, np.uint8))
    write_image(two, np.full((12, 16), 34, np.uint8))
    dataset = Cityscapes(root=str(root))
    with pytest.raises(UserError, match="no pixel has a class, as in the placeholders of the test split"):
        dataset.read("train", "aachen_000000_000019")
    with pytest.raises(UserError, match=r"unknown label ids \[34\]; allowed: 0\.\.33"):
        dataset.read("train", "aachen_000001_000019")


def test_the_test_split_is_left_out_and_files_without_a_partner_are_reported(root: Path, write_image: Write) -> None:
    write_image(root / "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png", np.zeros((12, 16, 3), np.uint8))
    write_image(root / "gtFine/test/berlin/berlin_000000_000019_gtFine_labelIds.png", np.zeros((12, 16), np.uint8))
    masks(root)["aachen_000000_000019"].unlink()
    next((root / "leftImg8bit/val").rglob("*.png")).unlink()
    dataset = Cityscapes(root=str(root))
    assert dataset.splits() == {"train": ["aachen_000001_000019", "bremen_000002_000019"], "val": []}
    first, second = dataset.problems()
    assert "aachen_000000_000019_leftImg8bit.png: no mask; add its mask or remove the image" in first
    assert "frankfurt_000003_000019_gtFine_labelIds.png: no image; add its image or remove the mask" in second


def test_the_errors_of_no_root_and_a_wrong_root_name_the_option(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"datasets\.cityscapes\.root: not set; .* holds leftImg8bit/ and gtFine/"):
        datasets.build("cityscapes", {})
    with pytest.raises(UserError, match=r"datasets\.cityscapes\.root: .*/none is not a folder"):
        datasets.build("cityscapes", {"root": str(tmp_path / "none")})


def test_a_real_frame_is_read(samples: dict[str, dict[str, Any]]) -> None:
    dataset = datasets.build("cityscapes", samples["cityscapes"])
    assert {split: len(names) for split, names in dataset.splits().items()} == {"train": 8, "val": 1}
    frame, label = dataset.read("val", "frankfurt_000000_000576")
    assert frame.shape == (1024, 2048, 3) and list(dataset.problems()) == []
    assert label[900, 1000] == 0 and label[300, 1400] == 2, "road in front of the car, a house next to it"


def test_real_pairs_of_both_kinds_follow_the_table(real_data: Path) -> None:
    """Each kind was reduced separately, so borders differ; but most pixels of an id follow the table."""
    folder = real_data / "samples" / "cityscapes_tiny_256x128" / "gtFine"
    (full,), (train,) = folder.glob("*_labelIds.png"), folder.glob("*_labelTrainIds.png")
    raw, label = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (full, train))
    for index in np.unique(raw):
        (most, _), *_ = Counter(label[raw == index].tolist()).most_common(1)
        assert most == OFFICIAL[int(index)], index
