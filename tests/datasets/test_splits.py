"""Folders that are named after splits are the splits; unclear folders are refused, and the advice always works."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline.datasets._splits import by_folders
from pipeline.datasets.folder import Folder

Write = Callable[..., Path]
Splits = dict[str, list[str]]
LABELS: dict[str, Any] = {"classes": ["road", "car"], "palette": ["#804080", "#00008e"]}
ROOTED = {"images": "images/**/*", "masks": "masks/**/*.png"}
BY_SPLIT = {"images": "*/images/*", "masks": "*/masks/*.png"}


@pytest.fixture
def make(tmp_path: Path, write_image: Write) -> Callable[..., Callable[..., Folder]]:
    """``make(*places)`` writes a pair at each place (``@`` becomes ``images`` and ``masks``), or 3 pairs if the place
    ends with ``/``; it returns a function that builds the data set from options.
    """

    def write(*places: str) -> Callable[..., Folder]:
        for place in places:
            for name in [f"{place}{number}" for number in range(3)] if place.endswith("/") else [place]:
                image, mask = (tmp_path / name.replace("@", kind) for kind in ("images", "masks"))
                write_image(image.with_name(f"{image.name}.jpg"), np.zeros((4, 4, 3), np.uint8))
                write_image(mask.with_name(f"{mask.name}.png"), np.zeros((4, 4), np.uint8))
        return lambda **options: Folder(**{"root": str(tmp_path), **LABELS, **options})

    return write


def counts(dataset: Folder) -> dict[str, int]:
    return {split: len(names) for split, names in dataset.splits().items()}


@pytest.mark.parametrize(
    ("places", "options"),
    [
        (["@/train/", "@/val/", "@/test/"], ROOTED),
        (["@/Train/", "@/VALID/", "@/Testing/"], ROOTED),
        (["@/training/", "@/validation/", "@/test/"], ROOTED),
        (["@/train2017/", "@/val2017/", "@/test2017/"], ROOTED),
        (["@/01_train/", "@/02_val/", "@/03_test/"], ROOTED),
        (["train/@/", "val/@/", "test/@/"], BY_SPLIT),
        (["train/@/", "val/@/", "test/@/"], {**BY_SPLIT, "sequence": ".+", "shares": {"val": 0.5}}),
        (["@/data/train/aachen/", "@/data/val/bonn/", "@/data/test/bonn/"], ROOTED),
        (["@/aachen/train/", "@/bonn/val/", "@/bonn/test/"], ROOTED),
        (["train_@/", "val_@/", "test_@/"], {"images": "*_images/*", "masks": "*_masks/*"}),
        (["@_train/", "@_val/", "@_test/"], {"images": "images_*/*", "masks": "masks_*/*"}),
        (["@/test/train/", "@/test/val/", "@/test/test/"], ROOTED),  # a common folder with the name test is not a split
    ],
)
def test_each_folder_is_its_split(
    make: Callable[..., Callable[..., Folder]], places: list[str], options: dict[str, Any]
) -> None:
    dataset = make(*places)(**options)
    assert list(dataset.problems()) == [] and list(dataset.splits()) == ["train", "val", "test"]
    for place, names in zip(places, dataset.splits().values(), strict=True):
        word = re.findall(r"train|val|test", place.lower())[-1]
        assert len(names) == 3 and all(word in name.lower() for name in names)


def test_folders_of_train_and_val_leave_no_test(make: Callable[..., Callable[..., Folder]]) -> None:
    assert counts(make("@/train/", "@/val/")()) == {"train": 3, "val": 3}


def test_val_is_drawn_from_train_where_only_test_has_a_folder(make: Callable[..., Callable[..., Folder]]) -> None:
    dataset = make(*(f"@/train/drive{number}/" for number in range(8)), "@/test/drive0/")(shares={"val": 0.3})
    splits = dataset.splits()
    assert list(dataset.problems()) == [] and list(splits) == ["train", "val", "test"]
    assert splits["test"] == [f"test__drive0__{number}" for number in range(3)]
    assert len(splits["train"]) + len(splits["val"]) == 24 and len(splits["val"]) % 3 == 0 < len(splits["val"])
    assert not {name[:13] for name in splits["val"]} & {name[:13] for name in splits["train"]}, (
        "a drive is in one split"
    )


def test_a_folder_of_train_alone_is_split_as_if_it_had_no_name(make: Callable[..., Callable[..., Folder]]) -> None:
    dataset = make(*(f"@/train/drive{number}/" for number in range(8)))
    assert counts(dataset()).keys() == {"train", "val"} and list(dataset().problems()) == []
    drawn = counts(dataset(shares={"val": 0.3, "test": 0.2}, sequence=".+"))
    assert drawn.keys() == {"train", "val", "test"} and sum(drawn.values()) == 24


@pytest.mark.parametrize(
    ("places", "message", "remedies"),
    [
        (["@/a/", "@/b/", "@/c/", "@/test/"], "folders test are named after splits, but 9 samples", 2),
        (
            ["@/train/", "@/val/", "@/extra/"],
            r"folders train, val are named .*, but 3 samples \(extra/0, .* in none",
            1,
        ),
        (["@/val/", "@/test/"], "folders test, val are named after splits, but none of them is train", 0),
        (["@/trainval/", "@/test/"], r"3 samples \(trainval/0", 2),
        (["@/a/x/", "@/a/y/", "@/b/x/", "@/b/test/"], r"9 samples \(a/x/0", 2),
        (["@/test/"], "all 3 samples are in a folder 'test', the name of a split", 1),
        (["@/train/", "@/"], r"3 samples \(0, 1, 2\) are in none of them", 0),
        (["@/train/test/", "@/val/x/"], r"3 samples \(train/test/0, .*\) are in folders of two splits", 0),
    ],
)
def test_unclear_folders_are_refused_with_advice_that_works(
    make: Callable[..., Callable[..., Folder]], places: list[str], message: str, remedies: int
) -> None:
    dataset = make(*places)
    (problem, *others) = dataset().problems()
    assert re.search(message, problem) and "lists" in problem and others[1:] == []
    advised = [*re.findall(r"(splits): (\{train: .*?\})", problem), *re.findall(r'(sequence): (".*?")', problem)]
    assert len(advised) == remedies
    for key, value in advised:
        followed = dataset(**{key: YAML(typ="safe").load(value)})
        text = "\n".join(followed.problems())
        assert "named after splits" not in text and "the name of a split" not in text
        for _ in range(3):
            if not (again := re.search(r"set (sequence|seed): '?(.+?)'?( and seed: (\d+))?[;,]", text)):
                break
            more: dict[str, Any] = {again[1]: int(again[2]) if again[1] == "seed" else again[2]}
            more |= {"seed": int(again[4])} if again[4] else {}
            followed = dataset(**{key: YAML(typ="safe").load(value)} | more)
            text = "\n".join(followed.problems())
        assert text == "" and counts(followed)["train"] and counts(followed)["val"]


def test_a_drive_named_test_is_a_drive_if_sequence_is_set(make: Callable[..., Callable[..., Folder]]) -> None:
    dataset = make("@/a/", "@/b/", "@/test/")(sequence="^[^/]+", seed=1)
    assert counts(dataset).keys() == {"train", "val"}
    unclear = make("@/train/", "@/val/", "@/test/", "@/extra/")(sequence="^[^/]+")
    assert "named after splits" in unclear.problems()[0], "three of them are not drives"


def test_splits_name_folders(make: Callable[..., Callable[..., Folder]]) -> None:
    dataset = make("@/train/", "@/extra/", "@/dev/", "@/x/train/")
    splits = {"train": ["train", "extra"], "val": ["dev"]}
    assert counts(dataset(splits=splits)) == {"train": 9, "val": 3}
    assert dataset(splits={"train": ["images/train", "x"], "val": ["dev", "extra"]}).splits()["val"][0] == "dev__0"
    message = "\n".join(dataset(splits={"train": ["train", "gone"], "val": ["x", "dev"]}).problems())
    assert "images/x/train/0.jpg: splits assigns it to train (train) and val (x); give a longer path" in message
    assert "3 samples (images/extra/0.jpg, " in message and "are in none of its folders" in message
    assert "splits.train: gone: no image of the pattern is in a folder with this name" in message


@pytest.mark.parametrize("samples", [2, 4, 40])
def test_flat_folders_get_the_advice_that_works(make: Callable[..., Callable[..., Folder]], samples: int) -> None:
    dataset = make(*(f"@/{number}" for number in range(samples)))
    (problem,) = dataset().problems()
    assert problem.startswith(f"split val: all {samples} samples are in one folder, so they are one sequence")
    advice = re.search(r"set sequence: '(\.\+)'( and seed: (\d+))?; if they are frames of videos, set seq", problem)
    assert advice
    followed = dataset(sequence=advice[1], seed=int(advice[3] or 0))
    assert list(followed.problems()) == [] and counts(followed)["train"] and counts(followed)["val"]


def test_one_image_is_not_enough(make: Callable[..., Callable[..., Folder]]) -> None:
    assert "1 samples are too few for 2 splits; add images" in make("@/a")().problems()[0]


def test_a_seed_is_recommended_that_fills_every_split(make: Callable[..., Callable[..., Folder]]) -> None:
    dataset = make("@/a/", "@/b/", "@/c/", "@/d/")
    wanted = {"val": 0.2, "test": 0.2}
    message = [dataset(seed=seed, shares=wanted).problems() for seed in range(6)]
    problem = next(problems[0] for problems in message if problems)
    advice = re.search(r"none of 4 sequences was drawn for it; set seed: (\d+), which fills every split", problem)
    assert advice and counts(dataset(seed=int(advice[1]), shares=wanted)) == {"train": 6, "val": 3, "test": 3}


def test_an_expression_that_finds_the_same_text_everywhere_is_an_error(
    make: Callable[..., Callable[..., Folder]],
) -> None:
    (problem,) = make("@/all/a/", "@/all/b/")(sequence="^[^/]+").problems()
    assert "sequence finds only 'all' in the names of 6 samples" in problem


def test_folders_without_names_of_splits_give_no_error() -> None:
    wrong: list[str] = []
    names = ["latest/1", "contest/2", "trains/3", "interval/4", "test_drive/5"]
    assert by_folders(names, drives=False, wrong=wrong) is None and wrong == []


def test_a_test_split_without_labels_is_left_out_with_a_warning(
    make: Callable[..., Callable[..., Folder]], tmp_path: Path
) -> None:
    dataset = make("@/train/", "@/val/", "@/test/")
    masks = sorted((tmp_path / "masks/test").iterdir())
    masks[0].unlink()
    assert "images/test/0.jpg: no mask" in dataset().problems()[0], "some have labels: this one is missing"
    for mask in masks[1:]:
        mask.unlink()
    assert counts(dataset()) == {"train": 3, "val": 3} and list(dataset().problems()) == []
    assert list(dataset().warnings()) == ["test: its 3 images have no masks; the split is left out"]
    for mask in (tmp_path / "masks/val").iterdir():
        mask.unlink()
    assert len(dataset().problems()) == 4, "val is needed"


@pytest.mark.parametrize(
    "places", [["@/train_1", "@/train_2", "@/val_1"], ["@/ADE_train_1", "@/ADE_val_2", "@/ADE_val_3"]]
)
def test_file_names_that_contain_splits_give_a_warning(
    make: Callable[..., Callable[..., Folder]], places: list[str]
) -> None:
    dataset = make(*places)
    (warning,) = dataset(sequence=".+").warnings()
    assert "contain train, val, but the splits are drawn by hashes; if these words are splits, give lists" in warning
    assert list(make("@/train_x/", "@/val_x/")(splits={"train": ["train_x"], "val": ["val_x"]}).warnings()) == []


@pytest.mark.parametrize("places", [["@/train/", "@/val/"], ["@/test_1", "@/test_2"], ["@/a/x", "@/val/b"]])
def test_other_file_names_give_no_warning(make: Callable[..., Callable[..., Folder]], places: list[str]) -> None:
    assert list(make(*places)(sequence=".+").warnings()) == []


@pytest.mark.parametrize(
    "places",
    [
        ["@/train-set/", "@/valid-set/", "@/test-set/"],
        ["@/train_images/", "@/val_images/", "@/test_images/"],
        ["@/data_train/", "@/data_val/", "@/data_test/"],
    ],
)
def test_a_folder_name_may_have_other_words_next_to_the_split(
    make: Callable[..., Callable[..., Folder]], places: list[str]
) -> None:
    dataset = make(*places)()
    assert not dataset.problems() and counts(dataset) == {"train": 3, "val": 3, "test": 3}


def test_a_name_with_a_foreign_word_is_not_a_split() -> None:
    assert by_folders(["train_station/1", "test_track/1"], drives=False, wrong=[]) is None
