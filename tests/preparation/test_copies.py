"""Images that were encoded again are found in another split; frames of the same drive are not copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline import datasets
from pipeline.datasets import Dataset
from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.preparation.copies import ALIKE, Index, Match, copies, correlation, is_flat, normalised, thumbnail
from pipeline.preparation.survey import survey

STREETS = {"train": 12, "val": 6, "sequence": 10, "size": [128, 192], "seed": 4}


@pytest.fixture(scope="module")
def frames() -> dict[str, list[Array]]:
    streets = datasets.build("streets", STREETS)
    return {split: [streets.read(split, name)[0] for name in names] for split, names in streets.splits().items()}


def pairs(**splits: Sequence[Array]) -> list[tuple[str, str]]:
    named = {split: [(str(n), thumbnail(each)) for n, each in enumerate(listed)] for split, listed in splits.items()}
    return list(copies(named))


def again(frame: Array, suffix: str, *options: int) -> Array:
    return np.asarray(cv2.imdecode(cv2.imencode(suffix, frame, options)[1], cv2.IMREAD_COLOR), np.uint8)


def test_copies_that_were_encoded_again_are_found(frames: dict[str, list[Array]]) -> None:
    height, width = frames["train"][0].shape[:2]
    train = frames["train"]
    val = [
        again(train[2], ".jpg", cv2.IMWRITE_JPEG_QUALITY, 40),
        again(train[7], ".jpg", cv2.IMWRITE_JPEG_QUALITY, 90),
        again(train[4], ".webp", cv2.IMWRITE_WEBP_QUALITY, 60),
        cv2.resize(train[1], (width // 2, height // 2), interpolation=cv2.INTER_AREA),
        cv2.resize(train[5], (width * 2, height * 2), interpolation=cv2.INTER_CUBIC),
        cv2.add(train[9], np.full_like(train[9], 6)),
    ]
    originals = [f"train/{index}" for index in (2, 7, 4, 1, 5, 9)]
    assert pairs(train=train, val=[*frames["val"], *val]) == [
        (f"val/{len(frames['val']) + place}", original) for place, original in enumerate(originals)
    ]


def test_other_scenes_and_the_next_frame_of_a_drive_are_no_copies(frames: dict[str, list[Array]]) -> None:
    drive = frames["sequence"]
    assert pairs(train=frames["train"], val=frames["val"], sequence=drive) == []
    assert pairs(train=drive[0::2], val=drive[1::2]) == []


def test_flat_images_are_never_copies() -> None:
    flat = [np.full((40, 60, 3), value, np.uint8) for value in (0, 9, 9)]
    assert pairs(train=flat, val=flat) == [] and pairs(train=[], val=flat) == []


def test_real_frames_of_a_drive_are_no_copies(real_data: Path) -> None:
    train, val = (
        [cv2.imread(str(path)) for path in sorted((real_data / "camvid" / split).glob("*.png"))[::step]]
        for split, step in (("train", 6), ("val", 1))
    )
    assert pairs(train=train, val=val) == [] and pairs(train=val[0::2], val=val[1::2]) == []
    copied = [again(frame, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 50) for frame in train[::6]]
    assert pairs(train=train, val=[*val, *copied]) == [
        (f"val/{len(val) + place}", f"train/{6 * place}") for place in range(len(copied))
    ]


class Pictures(Dataset):
    """Frames of each split; each label map has one class, and class 0 at one pixel."""

    labels = LabelSpec(names=("road", "car"), palette=((1, 1, 1), (2, 2, 2)))

    def __init__(self, **splits: list[tuple[Array, int]]) -> None:
        self.held = splits

    def splits(self) -> dict[str, Sequence[str]]:
        return {split: [f"{split}{index}" for index in range(len(held))] for split, held in self.held.items()}

    def warnings(self) -> Sequence[str]:
        return ["something is open"]

    def read(self, split: str, name: str) -> tuple[Array, Array]:
        frame, index = self.held[split][int(name.removeprefix(split))]
        label = np.full(frame.shape[:2], index, np.uint8)
        label[0, 0] = 0
        return frame, label


def test_a_survey_warns_of_copies_and_of_contradicting_masks(frames: dict[str, list[Array]]) -> None:
    one, two, three = frames["train"][:3]
    copy = again(two, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 70)
    dataset = Pictures(train=[(one, 0), (one, 1), (two, 1), (two, 1)], val=[(three, 1), (copy, 1)], test=[(three, 0)])
    for workers in (1, 3):
        result = survey(dataset, progress=lambda *_: None, workers=workers)
        assert result.warnings == [
            "something is open",
            "train/train1: the same image as train/train0, with another mask; keep the correct one",
            "val/val1: looks the same as train/train2; if it is a copy, remove one: copies make mIoU too high",
        ]
        assert result.problems == [
            "test/test0: the same image as val/val0, with another mask; splits must be disjoint: remove one"
        ]


def test_many_copies_are_counted(frames: dict[str, list[Array]]) -> None:
    twelve = frames["train"]
    brighter = [(cv2.add(frame, np.full_like(frame, 1)), 1) for frame in twelve]
    result = survey(Pictures(train=[(frame, 1) for frame in twelve], val=brighter), progress=lambda *_: None)
    assert len(result.warnings) == 12 and result.warnings[10].startswith("val/val9: looks the same as train/train9;")
    assert result.warnings[11].startswith("2 more images look the same as an image of another split")


@pytest.mark.parametrize("alike", [ALIKE, 0.995, 0.95, 0.9])
def test_the_index_answers_as_a_comparison_of_all_pairs(frames: dict[str, list[Array]], alike: float) -> None:
    """Frames of a drive, each also brighter, with noise, and as the mean with another: correlations from 0.5 to 1."""
    rng = np.random.default_rng(0)
    drawn = [frame for listed in frames.values() for frame in listed]
    drawn += [cv2.addWeighted(frame, 1 - 0.02 * n, drawn[0], 0.02 * n, 0) for n, frame in enumerate(drawn)]
    drawn += [np.clip(frame + rng.normal(0, 9, frame.shape), 0, 255).astype(np.uint8) for frame in drawn]
    thumbnails = [thumbnail(drawn[n]) for n in rng.permutation(len(drawn))]
    thumbnails[5] = np.full_like(thumbnails[5], 100)
    index, answers = Index(alike), 0
    for number, thumb in enumerate(thumbnails):
        earlier = normalised(thumbnails[:number]) @ normalised([thumb])[0] if number else np.zeros(0)
        match, alike_ones = index.like(thumb), {str(n) for n in np.flatnonzero(earlier >= alike)}
        assert (match is None) == (not alike_ones), number
        if match is not None:
            answers += 1
            assert match.name in alike_ones and match.correlation == pytest.approx(earlier[int(match.name)], abs=1e-5)
        index.add(str(number), thumb)
    assert 0 < answers < len(thumbnails)


def test_correlation_is_pearsons() -> None:
    thumbnails = np.random.default_rng(0).integers(0, 256, (6, 1024), dtype=np.uint8)
    expected = np.corrcoef(thumbnails.astype(np.float64))[0, 1:]
    assert correlation(thumbnails[1:], thumbnails[0]) == pytest.approx(expected, abs=1e-12)


def test_an_image_without_contrast_is_like_no_image() -> None:
    flat = np.full(1024, 9, np.uint8)
    index = Index()
    index.add("flat", flat)
    assert is_flat(flat) and index.like(flat) is None


def test_an_image_is_found_again_among_many() -> None:
    """More images than the index first has room for."""
    thumbnails = np.random.default_rng(0).integers(0, 256, (700, 1024), dtype=np.uint8)
    index = Index()
    for number, thumb in enumerate(thumbnails):
        index.add(str(number), thumb)
    assert [index.like(thumb) for thumb in thumbnails] == [Match(str(number), 1.0) for number in range(700)]
