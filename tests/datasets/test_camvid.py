"""CamVid: the official files are read, errors in them are reported, and the real data have the expected hash."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline import artifact, datasets
from pipeline.datasets.camvid import CONTENT_SHA256, LABELS, VOID, CamVid, content
from pipeline.errors import UserError
from pipeline.frames import write_png
from pipeline.preparation.prepare import prepare

#: Percent of all pixels, train / val, from the README of the data.
SHARES = {
    "sky": (16.8, 9.2), "building": (23.3, 26.0), "pole": (0.98, 0.56), "road": (31.7, 29.0), "sidewalk": (4.5, 8.7),
    "tree": (9.7, 16.3), "sign": (1.17, 0.89), "fence": (1.13, 3.08), "car": (5.9, 1.7), "pedestrian": (0.64, 0.65),
    "bicyclist": (0.29, 2.22), "void": (3.9, 1.7),
}  # fmt: skip


def edit(file: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda root: (root / file).write_text(change((root / file).read_text())) and None


def test_lists_with_a_foreign_prefix_are_read_in_order(camvid_root: Path) -> None:
    assert CamVid(root=str(camvid_root)).splits() == {
        "train": ["0001TP_006690", "0001TP_006720", "0016E5_00390"],
        "val": ["0016E5_07959", "0016E5_07961"],
    }


def test_void_is_11_in_original_ids() -> None:
    assert LABELS.to_original()[[0, 10, 255]].tolist() == [0, 10, 11]


@pytest.mark.parametrize("prefix", ["", "/home/me/data/CamVid/", "CamVid/"])
def test_lists_with_another_prefix_and_empty_lines_are_read_too(camvid_root: Path, prefix: str) -> None:
    edit("train.txt", lambda text: "\n" + text.replace("/SegNet/CamVid/", prefix) + "\n")(camvid_root)
    dataset = CamVid(root=str(camvid_root))
    assert len(dataset.splits()["train"]) == 3
    assert dataset.pairs["train"]["0016E5_00390"][1] == camvid_root / "trainannot/0016E5_00390.png"


def test_masks_keep_their_ids_and_void_becomes_ignored(camvid_root: Path) -> None:
    frame, label = CamVid(root=str(camvid_root)).read("train", "0016E5_00390")
    raw = cv2.imread(str(camvid_root / "trainannot/0016E5_00390.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(frame, cv2.imread(str(camvid_root / "train/0016E5_00390.png")))
    assert np.array_equal(label, np.where(raw == VOID, 255, raw))
    assert (raw == VOID).any() and LABELS.ignore_index == 255


def test_the_test_split_is_read_if_it_exists(camvid_root: Path) -> None:
    for old, new in (("val", "test"), ("valannot", "testannot")):
        (camvid_root / new).mkdir()
        for file in (camvid_root / old).iterdir():
            (camvid_root / new / file.name).write_bytes(file.read_bytes())
    (camvid_root / "test.txt").write_text((camvid_root / "val.txt").read_text().replace("val", "test"))
    dataset = CamVid(root=str(camvid_root))
    assert list(dataset.splits()) == ["train", "val", "test"]
    assert np.array_equal(dataset.read("test", "0016E5_07959")[1], dataset.read("val", "0016E5_07959")[1])


def test_the_errors_of_no_root_and_a_wrong_root_name_the_option(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"datasets\.camvid\.root: not set; set it .* datasets\.camvid\.download: true"):
        datasets.build("camvid", {})
    with pytest.raises(UserError, match=r"datasets\.camvid\.root: .*/none is not a folder; set it to the folder that"):
        CamVid(root=str(tmp_path / "none"))
    assert [problem.partition(";")[0] for problem in CamVid(root=str(tmp_path)).problems()] == [
        f"train.txt: no such file in {tmp_path}",
        f"val.txt: no such file in {tmp_path}",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "val.txt").unlink(), r"val\.txt: no such file"),
        (lambda root: (root / "val.txt").write_text("\n"), r"val\.txt: lists no pair"),
        (lambda root: (root / "val.txt").write_bytes(b"\xff\xfe\x00"), r"val\.txt: not UTF-8 text"),
        (
            edit("train.txt", lambda text: text + "only-one.png\n"),
            r"train\.txt:4: got 'only-one.png'; allowed: '<image> <mask>'",
        ),
        (edit("train.txt", lambda text: text + "a.png b.png c.png\n"), r"train\.txt:4: got '.*'; allowed: '<image> <m"),
        (edit("train.txt", lambda text: text + "/x/a.png /x/b.png\n"), r"train\.txt:4: got '.*'; allowed: '<image> <m"),
        (
            edit("train.txt", lambda text: text + "x/CamVid/../../a.png b.png\n"),
            r"train\.txt:4: got '.*'; allowed: '<i",
        ),
        (edit("train.txt", lambda text: text + text.splitlines()[0]), r"train\.txt:4: 0001TP_006690 is listed twice"),
    ],
)
def test_broken_lists_are_named_with_their_line(
    camvid_root: Path, change: Callable[[Path], None], message: str
) -> None:
    change(camvid_root)
    (problem,) = CamVid(root=str(camvid_root)).problems()
    assert re.search(message, problem)


def test_all_errors_of_lists_and_samples_are_reported_together(camvid_root: Path, tmp_path: Path) -> None:
    (camvid_root / "train.txt").write_text("one\ntwo\n")
    (camvid_root / "val/0016E5_07959.png").unlink()
    with pytest.raises(UserError, match="data set camvid: 4 problems") as caught:
        prepare(CamVid(root=str(camvid_root)), tmp_path / "out", name="camvid", options={}, progress=lambda *_: None)
    for problem in ("train.txt:1", "train.txt:2", "split train: empty", "val/0016E5_07959: "):
        assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "val/0016E5_07959.png").unlink(), r"val/0016E5_07959\.png: no such file"),
        (lambda root: (root / "valannot/0016E5_07959.png").unlink(), r"valannot/0016E5_07959\.png: no such file"),
        (lambda root: (root / "val/0016E5_07959.png").write_bytes(b"x"), "not a readable image"),
        (
            lambda root: write_png(root / "valannot/0016E5_07959.png", np.zeros((11, 16), np.uint8)),
            r"valannot/0016E5_07959\.png: the mask is 11x16, its image is 12x16; they must be equal",
        ),
        (
            lambda root: write_png(root / "valannot/0016E5_07959.png", np.full((12, 16), 12, np.uint8)),
            r"valannot/0016E5_07959\.png: unknown label ids \[12\]; allowed: 0\.\.11 \(11 is void\)",
        ),
        (
            lambda root: write_png(root / "valannot/0016E5_07959.png", np.full((12, 16, 3), (0, 0, 9), np.uint8)),
            "a colour mask; allowed: class ids in one channel",
        ),
    ],
)
def test_the_error_of_a_broken_pair_names_it(camvid_root: Path, change: Callable[[Path], None], message: str) -> None:
    change(camvid_root)
    dataset = CamVid(root=str(camvid_root))
    with pytest.raises(UserError, match=message):
        dataset.read("val", "0016E5_07959")
    dataset.read("val", "0016E5_07961")


def test_content_names_every_pair_and_nothing_else(camvid_root: Path) -> None:
    (camvid_root / "README").write_text("")
    before = content(camvid_root)
    assert len(before) == 2 * 5 and "trainannot/0001TP_006690.png" in before
    write_png(camvid_root / "train/0001TP_006690.png", np.zeros((12, 16, 3), np.uint8))
    assert artifact.files_hash(content(camvid_root)) != artifact.files_hash(before)


@pytest.fixture(scope="session")
def real_root(real_data: Path) -> Path:
    return real_data / "camvid"


def test_real_data_have_the_expected_hash(real_root: Path) -> None:
    splits = CamVid(root=str(real_root)).splits()
    assert {split: len(splits[split]) for split in ("train", "val")} == {"train": 367, "val": 101}
    assert artifact.files_hash(content(real_root)) == CONTENT_SHA256


def test_real_class_shares_are_those_of_the_readme(real_root: Path) -> None:
    dataset = CamVid(root=str(real_root))
    for column, split in enumerate(("train", "val")):
        counts = np.zeros(256, np.int64)
        for name in dataset.splits()[split]:
            mask = cv2.imread(str(dataset.pairs[split][name][1]), cv2.IMREAD_UNCHANGED)
            counts += np.bincount(mask.ravel(), minlength=256)
        percent = dict(zip((*LABELS.names, "void"), 100 * counts / counts.sum(), strict=False))
        assert all(abs(percent[name] - expected[column]) <= 0.1 for name, expected in SHARES.items()), percent


def test_real_frames_are_prepared(real_root: Path, tmp_path: Path) -> None:
    for split, first in (("train", "0001TP_006690"), ("val", "0016E5_07959")):
        line = (real_root / f"{split}.txt").read_text().splitlines()[0]
        assert first in line
        (tmp_path / f"{split}.txt").write_text(line)
        for folder in (split, f"{split}annot"):
            (tmp_path / folder).symlink_to(real_root / folder)
    facts = prepare(
        CamVid(root=str(tmp_path)), tmp_path / "out", name="camvid", options={}, progress=lambda split, total: None
    )
    assert facts["splits"] == {"train": ["0001TP_006690"], "val": ["0016E5_07959"]}
    assert artifact.load(tmp_path / "out", kind="dataset").labels == LABELS
