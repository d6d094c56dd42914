"""benchmarks/unlabelled.py: which frames keep their labels, whatever their names, and params.yaml that it refuses."""

from __future__ import annotations

import copy
import importlib.util
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.prepared import Prepared, jpeg_facts

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unlabelled_benchmark", ROOT / "benchmarks/unlabelled.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def drives(prepared: Prepared, tmp_path: Path) -> Prepared:
    """The data set with its ten train frames in two folders, with the same file names in both; the second is a JPEG."""
    train = prepared.split("train")
    names = [f"{'ab'[index % 2]}/{index // 2}" for index in range(len(train))]
    meta = copy.deepcopy(prepared.artifact.facts)
    meta["splits"]["train"] = names
    with artifact.create(tmp_path / "drives", kind="dataset", meta=meta) as folder:
        for file in prepared.artifact.meta["files"]:
            if not file.startswith("train/"):
                artifact.copy_file(prepared.artifact.path / file, folder / file)
        for index, name in enumerate(names):
            label = prepared.artifact.path / f"train/labels/{train.names[index]}.png"
            artifact.copy_file(label, folder / f"train/labels/{name}.png")
            image = folder / f"train/images/{name}{'.jpg' if index == 1 else '.png'}"
            image.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(image), train.frame(index))
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
        meta |= jpeg_facts(folder, files)
    return Prepared(tmp_path / "drives")


def test_frames_of_several_folders_keep_or_lose_their_labels(
    benchmark: ModuleType, drives: Prepared, tmp_path: Path
) -> None:
    benchmark.with_few_labels(drives, tmp_path / "few", every=4)
    few, every = Prepared(tmp_path / "few"), drives.split("train")
    assert "jpeg" in drives.artifact.meta and "jpeg" not in few.artifact.meta
    assert few.splits["train"] == ["a/0", "a/2", "a/4"] and few.splits["val"] == drives.splits["val"]
    counts = np.zeros(256, np.int64)
    for index, (frame, label) in enumerate(few.split("train")):
        assert np.array_equal(frame, every[4 * index][0]) and np.array_equal(label, every[4 * index][1])
        counts += np.bincount(label.ravel(), minlength=256)
    assert few.class_pixels("train") == counts[:11].tolist()
    benchmark.other_frames(drives, tmp_path / "others", every=4)
    files = [path.relative_to(tmp_path / "others").with_suffix("") for path in (tmp_path / "others").rglob("*.*")]
    assert sorted(map(str, files)) == ["a/1", "a/3", "b/0", "b/1", "b/2", "b/3", "b/4"]


def test_params_without_the_section_and_epochs(benchmark: ModuleType, prepared: Prepared, tmp_path: Path) -> None:
    raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    del raw["distill"]["unlabelled"]

    def work() -> object:
        with (tmp_path / "params.yaml").open("w") as stream:
            YAML().dump(raw, stream)
        place = {"work": tmp_path / "work", "dataset": prepared.artifact.path, "params": tmp_path / "params.yaml"}
        return benchmark.Work(Namespace(**place, teacher=None))

    written = work().write_params(tmp_path / "changed.yaml", unlabelled={"labels": "hard"})  # type: ignore[attr-defined]
    assert YAML(typ="safe").load(written.read_text())["distill"]["unlabelled"] == {"labels": "hard"}
    raw["distill"] |= {"steps": None, "epochs": 3}
    with pytest.raises(UserError, match=r"params.yaml: distill.steps: got null; the ways are compared"):
        work()
