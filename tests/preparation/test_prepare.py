"""`prepare` checks every sample, reports all errors together, writes everything or nothing, and always equal bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline import datasets
from pipeline.datasets import Dataset
from pipeline.errors import UserError
from pipeline.frames import Array, digest, read_frame, read_label_map, write_png
from pipeline.labels import LabelSpec
from pipeline.preparation.prepare import prepare
from pipeline.prepared import Prepared

STREETS = {"train": 3, "val": 2, "sequence": 0, "size": [64, 96], "seed": 4}


class Folder(Dataset):
    """``<root>/<name>.png`` and ``<root>/<name>_label.png``; ``listed`` names the splits."""

    labels = LabelSpec(names=("road", "car", "sky"), palette=((1, 1, 1), (2, 2, 2), (3, 3, 3)))

    def __init__(self, root: Path, listed: dict[str, list[str]]) -> None:
        self.root, self.listed = root, listed

    def splits(self) -> dict[str, Sequence[str]]:
        return dict(self.listed)

    def read(self, split: str, name: str) -> tuple[Array, Array]:
        return read_frame(self.root / f"{name}.png"), read_label_map(self.root / f"{name}_label.png")

    def add(self, name: str, label: list[list[int]], *, size: tuple[int, int] = (2, 4)) -> None:
        frame = np.full((*size, 3), sum(name.encode()) % 251, np.uint8)
        write_png(self.root / f"{name}.png", frame)
        write_png(self.root / f"{name}_label.png", np.array(label, np.uint8))


GOOD = [[0, 0, 1, 255], [0, 2, 1, 255]]


def folder_of(root: Path, **splits: list[str]) -> Folder:
    folder = Folder(root, splits)
    for name in {name for names in splits.values() for name in names}:
        folder.add(name, GOOD)
    return folder


def run(dataset: Dataset, out: Path, **options: Any) -> dict[str, Any]:
    return prepare(dataset, out, name="folder", options=options, progress=lambda split, total: None)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    for out in (tmp_path / "a", tmp_path / "other" / "b"):
        prepare(
            datasets.build("streets", STREETS), out, name="streets", options=STREETS, progress=lambda split, total: None
        )
    first, second = snapshot(tmp_path / "a"), snapshot(tmp_path / "other" / "b")
    assert len(first) == 1 + 2 * 5 and first == second


@pytest.mark.parametrize("name", ["streets", "folder"])
def test_an_older_cpu_writes_the_same_bytes(
    tmp_path: Path, name: str, on_older_cpu: Callable[[str], list[str]]
) -> None:
    """Rendered frames, decoded JPEGs and encoded PNGs: the data set is equal on every x86 CPU."""
    options: dict[str, Any] = STREETS
    if name == "folder":
        rng = np.random.default_rng(0)
        for index in range(4):
            image = cv2.resize(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), (101, 67))
            (tmp_path / "raw" / "images").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "raw" / "images" / f"{index}.jpg"), image)
            write_png(tmp_path / "raw" / "masks" / f"{index}.png", np.asarray(image[..., 0] > 99, np.uint8))
        options = {
            "root": str(tmp_path / "raw"),
            "classes": ["dark", "bright"],
            "palette": [[0, 0, 0], [255, 0, 0]],
            "sequence": ".+",
            "shares": {"val": 0.5},
        }
    program = f"""
from pathlib import Path
from pipeline import datasets
from pipeline.preparation.prepare import prepare
name, options, out = {name!r}, {options!r}, Path({str(tmp_path)!r})
prepare(datasets.build(name, options), out / "there", name=name, options=options, progress=lambda split, total: None)
"""
    on_older_cpu(program)
    prepare(
        datasets.build(name, options), tmp_path / "here", name=name, options=options, progress=lambda split, total: None
    )
    here = snapshot(tmp_path / "here")
    assert len(here) == 1 + 2 * (5 if name == "streets" else 4) and snapshot(tmp_path / "there") == here


def test_the_prepared_samples_equal_those_of_the_data_set(tmp_path: Path) -> None:
    dataset = folder_of(tmp_path / "raw", train=["a", "b"], val=["c"], test=[])
    run(dataset, tmp_path / "out")
    prepared = Prepared(tmp_path / "out")
    assert prepared.splits == {"train": ["a", "b"], "val": ["c"], "test": []}
    assert prepared.labels == Folder.labels and prepared.name == "folder"
    for split, names in prepared.splits.items():
        for name, (frame, label) in zip(names, prepared.split(split), strict=True):
            expected_frame, expected_label = dataset.read(split, name)
            assert np.array_equal(frame, expected_frame) and np.array_equal(label, expected_label)


def test_a_mixture_of_kept_and_encoded_images(tmp_path: Path) -> None:
    """JPEG and PNG of three channels keep their bytes, a rotated JPEG and a grey PNG do not. All keep their pixels."""
    rng = np.random.default_rng(0)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("a.jpg", {}), ("b.png", {}), ("c.jpg", {"exif": rotated.tobytes()}), ("d.png", {}), ("e.jpg", {"quality": 50}),
    ]  # fmt: skip
    for split in ("train", "val"):
        for name, saving in kinds:
            small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
            image = cv2.resize(small, (21, 33) if name.startswith("c") else (33, 21))
            file = tmp_path / "raw" / "images" / split / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0] if name.startswith("d") else image).save(file, **saving)
            mask = rng.integers(0, 2, (21, 33), dtype=np.uint8)
            write_png(tmp_path / "raw" / "masks" / split / f"{name[0]}.png", mask)
    options = {"root": str(tmp_path / "raw"), "classes": ["x", "y"], "palette": [[0, 0, 0], [255, 0, 0]]}
    dataset = datasets.build("folder", options)
    facts = prepare(dataset, tmp_path / "out", name="folder", options=options, progress=lambda *_: None, workers=3)
    for split in ("train", "val"):
        folder, images = tmp_path / "raw" / "images" / split, tmp_path / "out" / split / "images"
        names = [f"{split}__{name}" for name in "abcde"]
        files = [
            f"{name}{suffix}" for name, suffix in zip(names, (".jpg", ".png", ".png", ".png", ".jpg"), strict=True)
        ]
        assert sorted(file.name for file in images.iterdir()) == files
        same = [(images / files[i]).read_bytes() == (folder / kinds[i][0]).read_bytes() for i in (0, 1, 3)]
        assert same == [True, True, False]
        for name, (frame, label) in zip(names, Prepared(tmp_path / "out").split(split), strict=True):
            expected_frame, expected_label = dataset.read(split, name)
            assert np.array_equal(frame, expected_frame) and np.array_equal(label, expected_label)
    first = digest(dataset.read("train", "train__a")[0]).hex()
    assert facts["jpeg"] == {"file": "train/images/train__a.jpg", "pixels": first}


def test_a_data_set_that_this_machine_decodes_otherwise_is_refused(tmp_path: Path) -> None:
    test_a_mixture_of_kept_and_encoded_images(tmp_path)
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    meta["jpeg"]["pixels"] = "0" * 64
    (tmp_path / "out" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"train/images/train__a\.jpg: OpenCV decodes this JPEG to other pixels than"):
        Prepared(tmp_path / "out")


def test_class_share_is_counted_by_hand(tmp_path: Path) -> None:
    dataset = folder_of(tmp_path / "raw", train=["a", "b"], val=["c"], test=[])
    dataset.add("b", [[2, 2, 2, 2], [2, 2, 2, 0]])
    dataset.add("c", [[0, 0, 0, 255], [2, 255, 255, 255]])
    share = run(dataset, tmp_path / "out")["class_share"]
    assert share["train"] == {"road": round(4 / 14, 6), "car": round(2 / 14, 6), "sky": round(8 / 14, 6)}
    assert share["val"] == {"road": 0.75, "car": 0.0, "sky": 0.25}
    assert share["test"] == {"road": 0.0, "car": 0.0, "sky": 0.0}


def test_progress_is_called_for_every_sample(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []
    dataset = folder_of(tmp_path / "raw", train=["a", "b"], val=["c"])
    prepare(dataset, tmp_path / "out", name="folder", options={}, progress=lambda *call: calls.append(call))
    assert calls == [("train", 2), ("train", 2), ("val", 1)]


def test_the_facts_contain_no_paths(tmp_path: Path) -> None:
    dataset = folder_of(tmp_path / "raw", train=["a"], val=["c"])
    run(dataset, tmp_path / "out", root=str(tmp_path), download=False, seed=3)
    text = (tmp_path / "out" / "meta.json").read_text()
    assert json.loads(text)["options"] == {"seed": 3}
    assert str(tmp_path) not in text


def broken(root: Path) -> Folder:
    dataset = folder_of(root, train=[f"t{i}" for i in range(7)], val=["v0", "v1", "t0"])
    (root / "t1.png").write_bytes(b"no image")
    (root / "t2_label.png").write_bytes((root / "t3_label.png").read_bytes()[:50])
    dataset.add("t3", GOOD, size=(4, 2))
    dataset.add("t4", [[0, 3, 1, 254], [0, 0, 0, 255]])
    (root / "t5_label.png").unlink()
    (root / "v1.png").write_bytes((root / "t6.png").read_bytes())
    dataset.listed["train"].append("t6")
    dataset.listed["test"] = []
    return dataset


FAULTS = [
    "train/t1: {root}/t1.png: not a readable image",
    "train/t2: {root}/t2_label.png: not a readable image",
    "train/t3: image is (4, 2), its label (2, 4) (height, width); they must be equal",
    "train/t4: unknown label ids [3, 254]; allowed: 0..2 and 255 (ignored)",
    "train/t5: {root}/t5_label.png: no such file",
    "train/t6: listed 2 times; names must be unique",
    "val/t0: the same name as train/t0; splits must be disjoint: rename or remove one",
    "val/t0: the same image as train/t0; splits must be disjoint: remove one",
    "val/v1: the same image as train/t6; splits must be disjoint: remove one",
]


@pytest.mark.parametrize("older", [True, False])
def test_every_error_is_reported_and_nothing_is_written(tmp_path: Path, older: bool) -> None:
    out = tmp_path / "artifacts" / "out"
    if older:
        run(folder_of(tmp_path / "good", train=["a"], val=["b"]), out)
    before = snapshot(tmp_path / "artifacts")
    with pytest.raises(UserError) as caught:
        run(broken(tmp_path / "raw"), out)
    first, *problems, last = str(caught.value).split("\n")
    assert first == f"data set folder: {len(FAULTS)} problems"
    for expected in FAULTS:
        assert any(problem.strip().startswith(expected.format(root=tmp_path / "raw")) for problem in problems), expected
    assert len(problems) == len(FAULTS)
    assert last == "Nothing was written. Correct these errors, then run prepare again."
    assert snapshot(tmp_path / "artifacts") == before
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == (["out"] if older else [])


@pytest.mark.parametrize("splits", [{"train": ["a"], "val": []}, {"train": ["a"]}])
def test_an_empty_or_missing_split_is_refused(tmp_path: Path, splits: dict[str, list[str]]) -> None:
    with pytest.raises(UserError, match="1 problem\n  split val: empty; allowed: at least one sample"):
        run(folder_of(tmp_path / "raw", **splits), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_image_twice_in_one_split_is_allowed(tmp_path: Path) -> None:
    dataset = folder_of(tmp_path / "raw", train=["a", "b"], val=["c"])
    (tmp_path / "raw" / "b.png").write_bytes((tmp_path / "raw" / "a.png").read_bytes())
    assert run(dataset, tmp_path / "out")["splits"]["train"] == ["a", "b"]


def test_errors_of_prepared_name_the_missing_fact(tmp_path: Path) -> None:
    run(folder_of(tmp_path / "raw", train=["a"], val=["b"]), tmp_path / "out")
    with pytest.raises(UserError, match="has no split 'vall'; did you mean 'val'"):
        Prepared(tmp_path / "out").split("vall")
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    del meta["splits"]
    (tmp_path / "out" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"meta\.json: splits is missing or invalid"):
        Prepared(tmp_path / "out")


def test_warnings_are_given_if_there_are_no_errors(tmp_path: Path) -> None:
    dataset = folder_of(tmp_path, train=["a", "b"], val=["c"])
    write_png(tmp_path / "b.png", read_frame(tmp_path / "a.png"))
    write_png(tmp_path / "b_label.png", np.zeros((2, 4), np.uint8))
    warnings: list[str] = []
    prepare(dataset, tmp_path / "out", name="folder", options={}, progress=lambda *_: None, warn=warnings.append)
    assert warnings == ["train/b: the same image as train/a, with another mask; keep the correct one"]
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert "warnings" not in meta
