"""Frames on the page: those on which students differ most, and a page without frames."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import artifact
from pipeline.frames import write_png
from pipeline.reporting import (
    differing,
    page,
)
from pipeline.reporting.measured import Result

CLASSES = ["a", "b", "c"]
SHA = "ab" * 32
NAMES = [f"f{index}" for index in range(6)]


class Predicted:
    """A data set of six frames of 8x12, and predictions that are written with :meth:`predict`."""

    def __init__(self, root: Path) -> None:
        self.dataset, self.predictions = root / "dataset", root / "predictions"
        self.generator = np.random.default_rng(1)
        self.labels = {name: self.generator.integers(0, 3, (8, 12), dtype=np.uint8) for name in NAMES}
        palette = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
        meta = {"dataset": "x", "splits": {"val": NAMES}, "classes": CLASSES, "palette": palette, "ignore_index": 255}
        with artifact.create(self.dataset, kind="dataset", meta=meta) as folder:
            for index, (name, label) in enumerate(self.labels.items()):
                label[index] = 255
                write_png(folder / f"val/images/{name}.png", self.generator.integers(0, 9, (8, 12, 3), dtype=np.uint8))
                write_png(folder / f"val/labels/{name}.png", label)
        self.maps: dict[str, dict[str, np.ndarray]] = {}

    def predict(self, student: str, names: list[str] = NAMES) -> None:
        meta = {"split": "val", "names": names, "variants": ["int8"]}
        self.maps[student] = {}
        with artifact.create(self.predictions / student, kind="predictions", meta=meta) as folder:
            for name in names:
                wrong = self.generator.random((8, 12)) < self.generator.random()
                ids = np.where(wrong, self.generator.integers(0, 3, (8, 12)), self.labels[name]).astype(np.uint8)
                self.maps[student][name] = ids
                write_png(folder / f"int8/{name}.png", ids)

    def page(self, students: list[str], **options: Any) -> str:
        facts = {"dataset": "x", "dataset_sha256": SHA, "split": "val", "classes": tuple(CLASSES)}
        results = [Result(student=name, label=name, loss=name, **facts) for name in students]
        return page.build(results, dataset=self.dataset, predictions=self.predictions, **options)


@pytest.fixture
def predicted(tmp_path: Path) -> Predicted:
    made = Predicted(tmp_path)
    for student in ("none", "kd", "at"):
        made.predict(student)
    return made


def counted(predicted: Predicted, name: str) -> float:
    """The share of labelled pixels where one student is right and another one wrong, pixel by pixel."""
    label, differ, labelled = predicted.labels[name], 0, 0
    for y, x in np.ndindex(*label.shape):
        if label[y, x] != 255:
            right = [maps[name][y, x] == label[y, x] for maps in predicted.maps.values()]
            labelled += 1
            differ += any(right) and not all(right)
    return 100 * differ / labelled


def test_the_frames_on_which_students_differ_most(predicted: Predicted) -> None:
    expected = sorted(NAMES, key=lambda name: -counted(predicted, name))[: differing.SHOWN]
    text = predicted.page(["none", "kd", "at"])
    section = text[text.index("Frames where students differ most") : text.index("How this was measured")]
    shown = re.findall(r"<p>(f\d) &middot; the students differ on ([\d.]+)% of the labelled pixels", section)
    assert shown == [(name, f"{counted(predicted, name):.1f}") for name in expected]
    assert section.count("<img") == differing.SHOWN * (2 + 3) and "among the 6 kept frames of split val" in section
    label, maps = predicted.labels["f0"], [maps["f0"] for maps in predicted.maps.values()]
    assert differing.share(label, maps, ignored=255) == pytest.approx(counted(predicted, "f0"))
    assert text == predicted.page(["none", "kd", "at"])


def test_other_frames_are_not_compared(predicted: Predicted) -> None:
    assert "differ most" not in predicted.page(["kd"])
    assert "Not shown: no predictions of idd are kept." in predicted.page(["kd", "idd"])
    predicted.predict("pfs", NAMES[:5])
    assert "Not shown: the checks of the students kept different frames." in predicted.page(["kd", "pfs"])
    for student in ("x", "y"):
        predicted.predict(student, NAMES[:4])
    assert "differ most" not in predicted.page(["x", "y"]), "the sample frames show all four"


def test_a_page_without_frames_holds_no_picture(predicted: Predicted) -> None:
    assert "data:image" in predicted.page(["none", "kd"])
    text = predicted.page(["none", "kd"], frames=False)
    assert "<img" not in text and "data:image" not in text and "differ most" not in text
    assert "This page shows no frames" in text


def test_the_page_names_version_data_and_split(predicted: Predicted) -> None:
    text = predicted.page(["none", "kd"])
    assert SHA[:12] in text and "<dt>segpress</dt>" in text
    leads = re.findall(r'<p class="lead[^>]*>(.*?)</p>', text)
    assert sum("split val" in lead for lead in leads) >= 5
