"""Training refuses a prepared data set that shows too few classes, before the first step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import write_png
from pipeline.prepared import Prepared
from pipeline.training.data import class_weights


def changed(prepared: Prepared, folder: Path, **pixels: list[int] | None) -> Prepared:
    """A copy with other counts of a split in meta.json."""
    shutil.copytree(prepared.artifact.path, folder)
    meta = json.loads((folder / "meta.json").read_text())
    for split, counts in pixels.items():
        if counts is None:
            del meta["class_pixels"][split]
        else:
            meta["class_pixels"][split] = counts
    (folder / "meta.json").write_text(json.dumps(meta))
    return Prepared(folder)


def test_no_step_is_run(bench: Any, prepared: Prepared, tmp_path: Path) -> None:
    none, one = [0] * 11, [5] + [0] * 10
    bench.prepared = changed(prepared, tmp_path / "x", train=one, val=none)
    with pytest.raises(UserError, match=r"2 problems\n.*train: every labelled pixel is 'road'.*\n.*val: no pixel"):
        bench.train(bench.supervised(), tmp_path / "curves")
    with pytest.raises(UserError, match="train: every labelled"):
        class_weights(bench.prepared, balance=0.5)
    assert not (tmp_path / "curves").exists()


def test_a_validation_without_labels_is_one_message(bench: Any, prepared: Prepared, tmp_path: Path) -> None:
    bench.prepared = changed(prepared, tmp_path / "x", val=None)
    for file in (tmp_path / "x/val/labels").glob("*.png"):
        write_png(file, np.full((64, 96), 255, np.uint8))
    with pytest.raises(UserError, match="split val: no pixel has a class"):
        bench.train(bench.supervised(), tmp_path / "curves")
