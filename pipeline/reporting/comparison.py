"""Losses compared on one student: runs -> rows of means, spreads and gains; and results/comparison.json read again.

mIoU and IoU are percent, gains points of mIoU over the student alone (``none``), paired by seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from pipeline.reporting import json_file
from pipeline.reporting.json_file import Count, JsonObject, NotNegative, Number, Percent, require_lengths
from pipeline.reporting.measured import Teacher

FILE = "comparison.json"
BASELINE = "none"


@dataclass(frozen=True)
class Run:
    """One training run: mIoU of the student on ``val`` at its best step, and the cost of the training."""

    miou: float
    per_class_iou: Sequence[float | None]
    seconds_per_step: float
    training_seconds: float
    peak_memory_mib: float


class Row(JsonObject):
    """One loss over all seeds; None is not measured (yet), or undefined for a single seed."""

    name: str = ""
    loss: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    miou: tuple[Percent | None, ...] = ()  # of each seed
    mean: Percent | None = None
    std: NotNegative | None = None
    gain: Number | None = None
    gain_error: NotNegative | None = None
    per_class_iou: tuple[Percent | None, ...] = ()
    seconds_per_step: NotNegative | None = None
    peak_memory_mib: NotNegative | None = None
    training_seconds: NotNegative | None = None
    gain_per_minute: Number | None = None


class Comparison(JsonObject):
    """All rows, and their common facts."""

    rows: tuple[Row, ...] = ()
    classes: tuple[str, ...] = ()
    dataset_sha256: str = ""
    teacher: Teacher = Teacher()
    student: str = ""
    steps: Count | None = None
    batch_size: Count | None = None
    device: str = ""
    seeds: tuple[Count, ...] = ()

    @model_validator(mode="after")
    def _one_entry_per_seed_and_class(self) -> Comparison:
        mious = {f"rows[{index}].miou": row.miou for index, row in enumerate(self.rows)}
        ious = {f"rows[{index}].per_class_iou": row.per_class_iou for index, row in enumerate(self.rows)}
        require_lengths(mious, len(self.seeds), key="seeds")
        require_lengths(ious, len(self.classes), key="classes")
        return self

    @property
    def baseline(self) -> Row | None:
        """The row of the student that was trained without a teacher."""
        return next((row for row in self.rows if row.loss == BASELINE), None)


def summarise(
    name: str,
    runs: Mapping[int, Run],
    *,
    seeds: Sequence[int],
    loss: str,
    options: Mapping[str, Any],
    base: Mapping[int, Run],
) -> Row:
    """The row of one loss.

    Args:
        name: of the row.
        runs: by seed, at least one.
        seeds: all seeds of the comparison; ``miou`` holds None for those without a run.
        loss, options: of the training.
        base: runs of the student alone, by seed; a gain compares runs of the same seed. Empty: no gain.
    """
    mious = [run.miou for run in runs.values()]
    gains = [runs[seed].miou - base[seed].miou for seed in runs if seed in base and loss != BASELINE]
    gain = statistics.fmean(gains) if gains else None
    seconds = statistics.fmean(run.training_seconds for run in runs.values())
    return Row(
        name=name,
        loss=loss,
        options=dict(options),
        miou=tuple(runs[seed].miou if seed in runs else None for seed in seeds),
        mean=_rounded(statistics.fmean(mious)),
        std=_rounded(statistics.stdev(mious)) if len(mious) > 1 else None,
        gain=_rounded(gain),
        gain_error=_rounded(statistics.stdev(gains) / math.sqrt(len(gains))) if len(gains) > 1 else None,
        per_class_iou=tuple(map(_mean, zip(*(run.per_class_iou for run in runs.values()), strict=True))),
        seconds_per_step=_rounded(statistics.median(run.seconds_per_step for run in runs.values()), 6),
        peak_memory_mib=_rounded(max(run.peak_memory_mib for run in runs.values())),
        training_seconds=_rounded(seconds, 3),
        gain_per_minute=_rounded(gain / (seconds / 60)) if gain is not None and seconds > 0 else None,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(statistics.fmean(known)) if known else None


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def load(file: Path) -> Comparison:
    """The comparison in a file; without a file, one without rows.

    Raises:
        UserError: the file is invalid.
    """
    return (
        json_file.read(Comparison, file, advice="compare again with: make compare") if file.is_file() else Comparison()
    )
