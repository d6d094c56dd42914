"""Roboflow's semantic masks: _classes.csv, splits by folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.datasets.roboflow import Roboflow
from pipeline.errors import UserError


@pytest.fixture
def root(tmp_path: Path, makers: dict[str, Callable[[Path], dict[str, Any]]]) -> Path:
    makers["roboflow"](tmp_path)
    return tmp_path


def test_classes_and_splits_are_those_of_the_export(root: Path) -> None:
    dataset = Roboflow(root=str(root))
    assert dataset.problems() == () and dataset.labels.names == ("background", "road", "car")
    assert dataset.splits() == {"train": ["a_jpg.rf.0", "b_jpg.rf.1"], "val": ["c_jpg.rf.2"]}
    assert dataset.read("val", "c_jpg.rf.2")[1][0, :3].tolist() == [0, 1, 2]


def test_classes_are_merged_and_ignored(root: Path) -> None:
    dataset = Roboflow(root=str(root), classes={"all": ["road", "car"]}, ignore=["background"])
    assert dataset.read("train", "a_jpg.rf.0")[1][0, :3].tolist() == [255, 0, 0]
    assert (
        "label 'background' belongs to no class (in _classes.csv)"
        in Roboflow(root=str(root), classes=["car", "road"]).problems()[0]
    )
    left = Roboflow(root=str(root), classes=["car"], rest="ignore")
    assert left.problems() == () and left.read("train", "a_jpg.rf.0")[1][0, :3].tolist() == [255, 255, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Pixel Value, Class\n0, background\n0, car\n",
            "_classes.csv:3: got '0, car'; allowed: 'pixel value, class', with each id once",
        ),
        ("Pixel Value, Class\nx, car\n", "_classes.csv:2: got 'x, car'; allowed: 'pixel value, class'"),
        ("Pixel Value, Class\n1, tree\n", "1 is 'tree', but 'road' in another split"),
        ('Pixel Value, Class\n0, background\n1, road\n2, car\n3, "a, b"\n', ""),
        ("0,background\n1,road\n2,car\n", ""),
        ("\nPixel Value, Class,\n0, background,\n1, road ,\n2, car,\n", ""),
    ],
)
def test_the_table_of_classes_is_checked(root: Path, text: str, message: str) -> None:
    (root / "valid/_classes.csv").write_text(text)
    errors = "; ".join(Roboflow(root=str(root)).problems())
    assert message in errors if message else not errors, errors


def test_unknown_ids_and_files_without_a_partner_are_errors(root: Path, write_image: Callable[..., Path]) -> None:
    write_image(root / "train/a_jpg.rf.0_mask.png", np.full((12, 16), 7, np.uint8))
    with pytest.raises(UserError, match=r"unknown label ids \[7\]; allowed: \[0, 1, 2\], the ids in _classes\.csv"):
        Roboflow(root=str(root)).read("train", "a_jpg.rf.0")
    (root / "train/b_jpg.rf.1_mask.png").unlink()
    assert "b_jpg.rf.1.jpg: no mask" in Roboflow(root=str(root)).problems()[0]


def test_a_folder_without_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder train and no valid"):
        Roboflow(root=str(tmp_path))
