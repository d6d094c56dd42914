"""``streets``: deterministic, disjoint splits, exact labels, a long-tailed histogram, and a continuous drive."""

from __future__ import annotations

import hashlib
import itertools
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import datasets
from pipeline.datasets._streets.light import MOODS
from pipeline.datasets.streets import Streets, _scene
from pipeline.errors import UserError

ROOT = Path(__file__).parents[2]
OPTIONS = {"train": 40, "val": 4, "sequence": 30, "size": (128, 192), "seed": 1}
#: Train frames with every kind of light, wet and dry.
SCENES = [f"train_{index:04d}" for index in (0, 1, 2, 18, 48, 53, 142)]
READS = [("train", "train_0003"), ("val", "val_0001"), ("sequence", "sequence_0007")]


def make(**changes: object) -> Streets:
    return Streets(**{**OPTIONS, **changes})  # type: ignore[arg-type]


def digest(streets: Streets, split: str, name: str) -> str:
    frame, label = streets.read(split, name)
    return hashlib.sha256(frame.tobytes() + label.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def labels() -> list[np.ndarray]:
    streets = make()
    return [streets.read("train", name)[1] for name in streets.splits()["train"]]


def test_is_a_plugin_and_takes_a_list_from_yaml() -> None:
    streets = datasets.build("streets", {**OPTIONS, "size": [64, 96]})
    frame, label = streets.read("train", "train_0000")
    assert frame.shape == (64, 96, 3) and label.shape == (64, 96)


def test_classes() -> None:
    spec = Streets.labels
    names = "road lane_mark sidewalk building vegetation sky pole sign car pedestrian bicycle"
    assert spec.names == tuple(names.split())
    assert spec.ignore_index == 255
    assert len(set(spec.palette)) == spec.num_classes


def test_splits_are_disjoint_and_named_for_files() -> None:
    splits = make().splits()
    assert {split: len(names) for split, names in splits.items()} == {"train": 40, "val": 4, "sequence": 30}
    names = [name for split in splits.values() for name in split]
    assert len(set(names)) == len(names)
    assert splits["val"] == ["val_0000", "val_0001", "val_0002", "val_0003"]
    assert make(sequence=0).splits()["sequence"] == []


def test_splits_and_seeds_show_different_scenes() -> None:
    streets = make()
    shown = [
        digest(streets, *read) for read in [("train", "train_0000"), ("val", "val_0000"), ("sequence", "sequence_0000")]
    ]
    shown += [digest(streets, "train", "train_0001"), digest(make(seed=2), "train", "train_0000")]
    assert len(set(shown)) == len(shown)


@pytest.mark.parametrize("size", [(64, 96), (128, 192), (368, 480)])
def test_shapes_and_types(size: tuple[int, int]) -> None:
    frame, label = make(size=size).read("val", "val_0000")
    assert frame.shape == (*size, 3) and frame.dtype == np.uint8 and frame.flags["C_CONTIGUOUS"]
    assert label.shape == size and label.dtype == np.uint8 and label.flags["C_CONTIGUOUS"]
    assert label.max() < Streets.labels.num_classes


def test_equal_arguments_give_equal_bits_in_any_order() -> None:
    first, second = make(), make()
    forward = [digest(first, *read) for read in READS]
    assert [digest(second, *read) for read in reversed(READS)] == forward[::-1]
    assert [digest(first, *read) for read in READS] == forward


def test_number_of_frames_leaves_stills_unchanged() -> None:
    assert digest(make(train=5, val=2, sequence=0), *READS[0]) == digest(make(), *READS[0])


def test_equal_bits_in_another_process() -> None:
    program = (
        "from tests.datasets.test_streets import *\n"
        "print(*(digest(make(), *read) for read in READS))"
    )  # fmt: skip
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout.split() == [digest(make(), *read) for read in READS]


def test_equal_bits_on_an_older_cpu(on_older_cpu: Callable[[str], list[str]]) -> None:
    """Scenes with every kind of light, while AVX-512, AVX2, FMA and IPP are switched off."""
    lines = on_older_cpu(
        "from tests.datasets.test_streets import *\n"
        "for name in SCENES: print(digest(make(train=200), 'train', name))"
    )  # fmt: skip
    assert lines == [digest(make(train=200), "train", name) for name in SCENES]
    moods = {_scene((1, 0, int(name[-4:])), 0.0)[1].mood for name in SCENES}
    assert moods == set(MOODS)


def test_global_generators_are_not_used() -> None:
    np.random.seed(3)
    before, state = np.random.get_state()[1].copy(), random.getstate()
    make().read("train", "train_0000")
    assert (np.random.get_state()[1] == before).all() and random.getstate() == state


def test_ids_are_in_range_and_every_class_occurs(labels: list[np.ndarray]) -> None:
    assert set(np.unique(np.stack(labels)).tolist()) == set(range(Streets.labels.num_classes))


def test_histogram_has_a_long_tail(labels: list[np.ndarray]) -> None:
    counts = np.bincount(np.stack(labels).ravel(), minlength=11)
    share = dict(zip(Streets.labels.names, 100 * counts / counts.sum(), strict=True))
    for name in ("pole", "sign", "pedestrian", "bicycle", "lane_mark"):
        assert 0.3 < share[name] < 2.5, (name, share)
    assert 3.0 < share["car"] < 8.0, share
    for name in ("road", "building", "sky", "vegetation"):
        assert share[name] > 8.0, (name, share)
    assert share["road"] < 45.0, share


def test_frames_vary_in_brightness_and_colour() -> None:
    streets = make()
    means = np.array([streets.read("train", f"train_{i:04d}")[0].mean((0, 1)) for i in range(20)])
    assert means.mean(1).std() > 15
    assert (means[:, 0] - means[:, 2]).std() > 4


def test_frames_of_the_sequence_change_slowly() -> None:
    streets = make()
    drive = [streets.read("sequence", name)[1] for name in streets.splits()["sequence"]]
    agreement = [float((a == b).mean()) for a, b in itertools.pairwise(drive)]
    assert min(agreement) > 0.7 and np.median(agreement) > 0.8, agreement
    assert float((drive[0] == drive[-1]).mean()) < min(agreement)
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(drive))


def test_bad_options_are_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        datasets.build("streets", {"train": 0, "val": True, "sequence": -1, "size": (64, 96), "seed": -5})
    assert str(caught.value).split("\n") == [
        "datasets.streets: 4 problems",
        "  train: got 0; allowed: greater than or equal to 1",
        "  val: got True; allowed: a valid integer",
        "  sequence: got -1; allowed: greater than or equal to 0",
        "  seed: got -5; allowed: greater than or equal to 0",
    ]
    with pytest.raises(
        UserError, match=r"2 problems\n  size: height 60 must be .* 64\n  size: width 100 must be .* 96"
    ):
        make(size=(60, 100))


@pytest.mark.parametrize("size", [(128,), (1, 2, 3), "128x192", (128.0, 192), None, [[128], 192]])
def test_size_that_is_no_pair_of_integers(size: object) -> None:
    with pytest.raises(UserError, match=r"size: got .*; allowed: (a list of two numbers|a valid integer)"):
        datasets.build("streets", {**OPTIONS, "size": size})


@pytest.mark.parametrize(
    ("split", "name"),
    [("test", "test_0000"), ("train", "val_0000"), ("train", "train_0040"), ("train", "train_3"), ("train", "x")],
)
def test_unknown_samples(split: str, name: str) -> None:
    with pytest.raises(UserError, match="streets has no"):
        make().read(split, name)
