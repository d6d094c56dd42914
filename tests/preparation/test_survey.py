"""One pass counts exactly, finds all errors, and gives the same result with any number of threads."""

from __future__ import annotations

import json
import os
import threading
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import datasets
from pipeline.datasets import Dataset
from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.preparation.prepare import prepare
from pipeline.preparation.survey import cores, survey

STREETS = {"train": 5, "val": 3, "sequence": 4, "size": [64, 96], "seed": 4}


class Numbers(Dataset):
    """Samples that follow from their names: ``3-1`` is frame 3 with a label map of ones."""

    labels = LabelSpec(names=("road", "car", "sky"), palette=((1, 1, 1), (2, 2, 2), (3, 3, 3)))

    def __init__(self, **splits: Sequence[str]) -> None:
        self.listed = splits
        self.wrong: list[str] = []
        self.threads: set[int] = set()

    def splits(self) -> dict[str, Sequence[str]]:
        return dict(self.listed)

    def problems(self) -> Sequence[str]:
        return self.wrong

    def read(self, split: str, name: str) -> tuple[Array, Array]:
        self.threads.add(threading.get_ident())
        picture, _, index = name.partition("-")
        time.sleep(0.01 * (int(picture) % 3))  # later samples are ready before earlier ones
        if index == "x":
            raise UserError("broken")
        label = np.full((2, 4), int(index), np.uint8)
        label[0, :2] = 0, 255
        return np.full((2, 4, 3), int(picture), np.uint8), label


class Rows(Dataset):
    """Samples whose labels are one row each: ``Rows(train=[[0, 1], [2, 255]])`` has train_0 and train_1."""

    labels = Numbers.labels

    def __init__(self, **splits: list[list[int]]) -> None:
        self.rows = {f"{split}_{i}": row for split, rows in splits.items() for i, row in enumerate(rows)}

    def splits(self) -> dict[str, Sequence[str]]:
        names_of: dict[str, list[str]] = {}
        for name in self.rows:
            names_of.setdefault(name.partition("_")[0], []).append(name)
        return dict(names_of)

    def read(self, split: str, name: str) -> tuple[Array, Array]:
        place, row = list(self.rows).index(name), self.rows[name]
        return np.full((1, len(row), 3), place, np.uint8), np.array([row], np.uint8)


def run(dataset: Dataset, workers: int = 3) -> Any:
    calls: list[tuple[str, int]] = []
    result = survey(dataset, progress=lambda *call: calls.append(call), workers=workers)
    read = {split: [name for name in names if "/" not in name] for split, names in result.names.items()}
    assert calls == [(split, len(names)) for split, names in read.items() for _ in names]
    return result


def test_counts_are_those_counted_by_hand() -> None:
    result = run(Numbers(train=["1-1", "2-1", "3-2"], val=["4-1"], test=[]))
    train, val, test = (result.counts[split] for split in ("train", "val", "test"))
    assert train.pixels.tolist() == [3, 12, 6] and train.images.tolist() == [3, 2, 1]
    assert train.ignored == 3 and dict(train.sizes) == {(2, 4): 3}
    assert val.pixels.tolist() == [1, 6, 0] and val.shares().tolist() == [1 / 7, 6 / 7, 0]
    assert test.pixels.tolist() == [0, 0, 0] and test.shares().tolist() == [0, 0, 0]
    assert train.shares() == pytest.approx([3 / 21, 12 / 21, 6 / 21]) and result.problems == []


def test_errors_of_lists_names_and_samples_are_reported_together() -> None:
    dataset = Numbers(train=["1-x", "2-1", "2-1", "../3-1", "4-9"], val=["6-1", "5-1"], test=["6-1", "5-2"])
    dataset.wrong.append("train.txt:3: odd")
    assert run(dataset, workers=2).problems == [
        "train.txt:3: odd",
        "train/2-1: listed 2 times; names must be unique",
        "train/'../3-1': not a file name; allowed: printable, relative and not too long; rename it",
        "test/6-1: the same name as val/6-1; splits must be disjoint: rename or remove one",
        "train/1-x: broken",
        "train/4-9: unknown label ids [9]; allowed: 0..2 and 255 (ignored)",
        "test/6-1: the same image as val/6-1; splits must be disjoint: remove one",
        "test/5-2: the same image as val/5-1, with another mask; splits must be disjoint: remove one",
    ]


@pytest.mark.parametrize(
    ("train", "val", "messages"),
    [
        ([[0, 1]], [[255, 255]], ["split val: no pixel has a class"]),
        (
            [[255, 255]],
            [[0, 255], [0, 0]],
            ["split train: no pixel has", "split val: every labelled pixel is 'r"],
        ),
        ([[1, 255], [1, 1]], [[1, 2]], ["split train: every labelled pixel is 'car'; it must show two classes"]),
        ([[1, 255], [255, 2]], [[1, 2]], []),
        (
            [[1, 1], [1, 9]],
            [[1, 2]],
            ["train/train_1: unknown label ids [9]"],
        ),  # the invalid sample may have another class
    ],
)
def test_too_few_classes_in_a_split_are_an_error(
    train: list[list[int]], val: list[list[int]], messages: list[str]
) -> None:
    problems = run(Rows(train=train, val=val, test=[[255, 255]])).problems
    assert len(problems) == len(messages) and all(
        problem.startswith(start) for problem, start in zip(problems, messages, strict=True)
    )


class Noise(Dataset):
    """Frames of 14,400 bytes."""

    labels = Numbers.labels

    def __init__(self, count: int) -> None:
        self.names = [f"{index}" for index in range(count)]

    def splits(self) -> dict[str, Sequence[str]]:
        return {"train": self.names[1:], "val": self.names[:1]}

    def read(self, split: str, name: str) -> tuple[Array, Array]:
        frame = np.random.default_rng(int(name)).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        return frame, np.asarray(frame[..., 0] % 3, np.uint8)


def test_a_sample_leaves_little_in_memory() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        survey(Noise(count), progress=lambda *_: None, workers=2)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(1324) - peak(1025) < 300 * 3_000, "bytes per sample: thumbnail, digests, name"


def test_a_single_class_is_an_error() -> None:
    dataset = Rows(train=[[0, 255]], val=[[255, 255]])
    dataset.labels = LabelSpec(names=("crack",), palette=((1, 1, 1),))
    (problem,) = run(dataset).problems
    assert problem.startswith("classes: got only 'crack'; allowed: two or more: make the other pixels a class too")


def test_absent_classes_are_named() -> None:
    assert run(Rows(train=[[0, 1]], val=[[1, 2]], test=[[255, 255]])).absences() == [
        "train: 1 class is absent (cannot be learnt): sky",
        "val: 1 class is absent (no IoU): road",
        "test: no labelled pixel",
    ]
    assert run(Rows(train=[[0, 1, 2]], val=[[2, 1, 0]])).absences() == []


def test_an_empty_val_is_an_error() -> None:
    assert run(Numbers(train=["1-1"])).problems == ["split val: empty; allowed: at least one sample"]


def test_threads_share_the_work_and_change_nothing() -> None:
    names = [f"{number}-{number % 3}" for number in range(12)]
    one, many = Numbers(train=names, val=["50-0"]), Numbers(train=names, val=["50-0"])
    first, second = run(one, workers=1), run(many, workers=4)
    assert len(one.threads) == 1 < len(many.threads)
    assert all(first.counts["train"].pixels == second.counts["train"].pixels) and first.problems == second.problems


def test_a_crash_in_a_thread_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        run(Numbers(train=["1-1", "1-nonsense", "3-1"], val=["2-1"]))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    for workers in (1, 4):
        prepare(
            datasets.build("streets", STREETS),
            tmp_path / str(workers),
            name="streets",
            options=STREETS,
            progress=lambda split, total: None,
            workers=workers,
        )
    first, second = snapshot(tmp_path / "1"), snapshot(tmp_path / "4")
    assert len(first) == 1 + 2 * 12 and first == second


def test_meta_has_the_exact_counts_of_the_written_labels(tmp_path: Path) -> None:
    facts = prepare(
        Numbers(train=["1-1", "2-2"], val=["3-1"]), tmp_path / "out", name="x", options={}, progress=lambda *_: None
    )
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["class_pixels"] == facts["class_pixels"] == {"train": [2, 6, 6], "val": [1, 6, 0]}
    assert meta["class_images"] == {"train": [2, 1, 1], "val": [1, 1, 0]}
    assert meta["class_share"]["train"] == {"road": round(2 / 14, 6), "car": round(6 / 14, 6), "sky": round(6 / 14, 6)}


@pytest.mark.parametrize(("usable", "expected"), [(1, 1), (3, 3), (8, 8), (64, 8)])
def test_cores_are_those_of_this_process_and_at_most_8(
    usable: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(usable)), raising=False)
    assert cores() == expected
