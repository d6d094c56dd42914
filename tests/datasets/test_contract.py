"""Every data set: unique names, disjoint splits, ids in range, equal shapes, and the same bits each time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import datasets
from pipeline.datasets import Dataset
from pipeline.datasets._images import Mask
from pipeline.datasets._pairs import PairDataset
from pipeline.errors import UserError

SMALL: dict[str, dict[str, Any]] = {"streets": {"train": 3, "val": 2, "sequence": 2, "size": [64, 96], "seed": 1}}
REAL = ("ade20k", "pascal_context", "voc2012")  # Cityscapes' large frames are read once, in their own test


@pytest.fixture(params=[*datasets.available(), *(f"{name}-real" for name in REAL)])
def small(
    request: pytest.FixtureRequest, makers: dict[str, Callable[[Path], dict[str, Any]]], tmp_path: Path
) -> tuple[str, dict[str, Any]]:
    """Name and options of every data set plugin, small, some on real samples. A new plugin needs an entry here."""
    name, _, real = request.param.partition("-")
    if real:
        return name, request.getfixturevalue("samples")[name]
    known = {*SMALL, *makers}
    assert name in known, f"the contract of {name} is not tested: add options for a small one"
    return name, SMALL[name] if name in SMALL else makers[name](tmp_path / "raw")


@pytest.fixture
def dataset(small: tuple[str, dict[str, Any]]) -> Dataset:
    return datasets.build(*small)


def samples(dataset: Dataset) -> list[tuple[str, str]]:
    return [(split, name) for split, names in dataset.splits().items() for name in names]


def test_a_valid_data_set_has_no_errors(dataset: Dataset) -> None:
    assert list(dataset.problems()) == []


def test_train_and_val_have_samples(dataset: Dataset) -> None:
    assert dataset.splits()["train"] and dataset.splits()["val"]


def test_names_are_unique_over_all_splits_and_safe_as_file_names(dataset: Dataset) -> None:
    names = list(chain.from_iterable(dataset.splits().values()))
    assert len(set(names)) == len(names)
    assert all(name and not name.startswith((".", "/")) and ".." not in name for name in names)


def test_splits_come_in_the_same_order_every_time(small: tuple[str, dict[str, Any]]) -> None:
    first, second = datasets.build(*small), datasets.build(*small)
    assert samples(first) == samples(first) == samples(second)


def test_no_image_is_in_two_splits(dataset: Dataset) -> None:
    where: dict[bytes, str] = {}
    for split, name in samples(dataset):
        assert where.setdefault(dataset.read(split, name)[0].tobytes(), split) == split, name


def test_labels_are_named_and_coloured(dataset: Dataset) -> None:
    labels = dataset.labels
    assert labels.num_classes > 1 and all(name == name.strip().lower() and name for name in labels.names)
    assert len(set(labels.palette)) == labels.num_classes, "two classes share a colour"


def test_samples_have_the_declared_types_shapes_and_ids(dataset: Dataset) -> None:
    allowed = {*range(dataset.labels.num_classes), dataset.labels.ignore_index}
    for split, name in samples(dataset):
        frame, label = dataset.read(split, name)
        assert frame.dtype == np.uint8 and label.dtype == np.uint8
        assert frame.shape == (*label.shape, 3) and label.ndim == 2
        assert set(np.unique(label).tolist()) <= allowed


def test_original_ids_are_read_back_as_the_same_classes(dataset: Dataset) -> None:
    """Masks for a test server are decoded in the same way as the masks of the data set."""
    if not isinstance(dataset, PairDataset):
        assert dataset.labels.original_ids is None  # there is no test server for such a data set
        return
    original = dataset.labels.to_original()
    for split, name in samples(dataset):
        label = dataset.read(split, name)[1]
        assert np.array_equal(dataset.coding.decode(Path("x.png"), Mask(original[label], None)), label)


def test_reads_do_not_depend_on_what_was_read_before(small: tuple[str, dict[str, Any]]) -> None:
    first, second = datasets.build(*small), datasets.build(*small)
    forward = {key: first.read(*key) for key in samples(first)}
    for key in reversed(samples(second)):
        for expected, got in zip(forward[key], second.read(*key), strict=True):
            assert np.array_equal(expected, got)


def test_a_read_belongs_to_the_caller(dataset: Dataset) -> None:
    key = samples(dataset)[0]
    frame, label = dataset.read(*key)
    before = frame.copy(), label.copy()
    frame[:], label[:] = 7, 7
    for expected, got in zip(before, dataset.read(*key), strict=True):
        assert np.array_equal(expected, got)


@pytest.mark.parametrize("key", [("train", "no such name"), ("no such split", "x")])
def test_unknown_samples_are_user_errors(dataset: Dataset, key: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=r"has no (sample|split) "):
        dataset.read(*key)
