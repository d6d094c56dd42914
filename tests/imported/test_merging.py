"""A data set in the classes of a network: every pixel follows `merge`, frames do not change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline import artifact
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.evaluation.matching import require_same_classes
from pipeline.frames import read_frame, write_png
from pipeline.imported.merging import merge
from pipeline.prepared import Prepared, jpeg_facts


def quiet(title: str, total: int) -> None:
    pass


def test_every_pixel_follows_its_rule(described: Any, dataset: Path, tmp_path: Path) -> None:
    description = described(None, merge={"road": ["road", "lane"], "car": ["car", "bus"]}, rest="sky", ignore_index=255)
    facts = merge(Prepared(dataset), description, tmp_path / "merged", progress=quiet)
    before, after = Prepared(dataset), Prepared(tmp_path / "merged")
    assert after.labels == description.labels and after.splits == before.splits and after.name == "noise"
    # sky, road, lane, car, bus, pole, tree; ignored: 200 before, 255 after
    rule = {0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 5: 0, 6: 0, 200: 255}
    for split in ("train", "val"):
        counts = np.zeros(3)
        for (frame, label), (same, merged) in zip(before.split(split), after.split(split), strict=True):
            assert np.array_equal(frame, same)
            assert merged.tolist() == [[rule[int(value)] for value in row] for row in label]
            counts += [(merged == index).sum() for index in range(3)]
        assert list(facts["class_share"][split].values()) == pytest.approx(counts / counts.sum(), abs=1e-6)
        assert facts["class_pixels"][split] == list(counts)


def test_images_keep_their_files(described: Any, dataset: Path, tmp_path: Path) -> None:
    """A JPEG stays a JPEG, with the fact by which a machine checks how it decodes."""
    shutil.copytree(dataset, tmp_path / "mixed")
    meta = json.loads((tmp_path / "mixed" / "meta.json").read_text())
    image = f"val/images/{meta['splits']['val'][0]}"
    frame = read_frame(tmp_path / "mixed" / f"{image}.png")
    (tmp_path / "mixed" / f"{image}.png").unlink()
    cv2.imwrite(str(tmp_path / "mixed" / f"{image}.jpg"), frame)
    del meta["files"][f"{image}.png"]
    meta["files"][f"{image}.jpg"] = artifact.sha256(tmp_path / "mixed" / f"{image}.jpg")
    meta |= jpeg_facts(tmp_path / "mixed", meta["files"])
    (tmp_path / "mixed" / "meta.json").write_text(json.dumps(meta))
    merge(Prepared(tmp_path / "mixed"), described(None), tmp_path / "merged", progress=quiet)
    for name in (*meta["files"],):
        if "/images/" in name:
            assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "mixed" / name).read_bytes()
    assert Prepared(tmp_path / "merged").artifact.meta["jpeg"]["file"] == f"{image}.jpg"


def test_samples_in_folders(described: Any, dataset: Path, tmp_path: Path) -> None:
    """A plugin of your own may name its samples `drive/frame`."""
    split = Prepared(dataset).split("val")
    meta = {**Prepared(dataset).labels.to_meta(), "dataset": "nested", "splits": {"train": ["a/b"], "val": ["a/c"]}}
    with artifact.create(tmp_path / "nested", kind="dataset", meta=meta) as folder:
        for file in ("train/{}/a/b.png", "val/{}/a/c.png"):
            write_png(folder / file.format("images"), split.frame(0))
            write_png(folder / file.format("labels"), split.label(0))
    merge(Prepared(tmp_path / "nested"), described(None), tmp_path / "merged", progress=quiet)
    assert np.array_equal(Prepared(tmp_path / "merged").split("val").frame(0), split.frame(0))


def test_other_classes_are_ignored_by_default(described: Any, dataset: Path, tmp_path: Path) -> None:
    merge(Prepared(dataset), described(None, merge={"road": ["lane"]}), tmp_path / "merged", progress=quiet)
    label, merged = Prepared(dataset).split("val").label(0), Prepared(tmp_path / "merged").split("val").label(0)
    # sky and car keep their names, road is the data set's lane alone
    assert np.array_equal(merged == 0, label == 0) and np.array_equal(merged == 2, label == 3)
    assert np.array_equal(merged == 1, label == 2) and set(np.unique(merged)) == {0, 1, 2, 255}


def test_original_ids_are_those_of_the_description(described: Any, dataset: Path, tmp_path: Path) -> None:
    """The masks have no id for a merged class; only the description can name one."""
    for name, keys in (("without", {}), ("with", {"original_ids": [23, 7, 26], "original_ignored": 0})):
        description = described(None, merge={"road": ["road", "lane"]}, **keys)
        merge(Prepared(dataset), description, tmp_path / name, progress=quiet)
        assert Prepared(tmp_path / name).labels == description.labels
        assert description.labels.original_ids == (tuple(keys["original_ids"]) if keys else None)


def test_unknown_classes_and_no_common_class(described: Any, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"merge.road: the data set has no class 'raod'; did you mean 'road'?"):
        merge(Prepared(dataset), described(None, merge={"road": ["raod"]}), tmp_path / "merged", progress=quiet)
    description = described(None, classes=["x", "y", "z"])
    with pytest.raises(
        UserError, match=r"no class of the network \(x, y, z\) gets a class of the data set \(sky, road"
    ):
        merge(Prepared(dataset), description, tmp_path / "merged", progress=quiet)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("classes", [["road", "sky"], ["sky", "road", "lane", "car", "bus", "tree", "pole"]])
def test_labels_in_other_classes_are_refused_for_measuring(dataset: Path, classes: list[str]) -> None:
    network = Artifact(path=Path("onnx/own"), meta={"classes": classes})
    with pytest.raises(UserError, match=rf"has the classes sky, road, .*; the network of onnx/own has {classes[0]}, "):
        require_same_classes(Prepared(dataset), network)


def test_labels_in_the_same_classes_are_accepted(dataset: Path) -> None:
    classes = ["sky", "road", "lane", "car", "bus", "pole", "tree"]
    require_same_classes(Prepared(dataset), Artifact(path=Path("onnx/own"), meta={"classes": classes}))
