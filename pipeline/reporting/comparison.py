"""Losses compared on one student: runs -> rows of means, spreads and gains; and back from results/comparison.json.

mIoU and IoU are percent, gains points of mIoU over the student alone (``none``), paired by seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifact import read_json
from pipeline.errors import Faults
from pipeline.reporting.fields import Fields

FILE = "comparison.json"
BASELINE = "none"


@dataclass(frozen=True)
class Run:
    """One training run: what the student reached on ``val`` at its best step, and what the training cost."""

    miou: float
    per_class_iou: Sequence[float | None]
    seconds_per_step: float
    training_seconds: float
    peak_memory_mib: float


@dataclass(frozen=True)
class Row:
    """One loss over all seeds; None is not measured (yet), or not defined for one seed."""

    name: str
    loss: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    miou: tuple[float | None, ...] = ()
    mean: float | None = None
    std: float | None = None
    gain: float | None = None
    gain_error: float | None = None
    per_class_iou: tuple[float | None, ...] = ()
    seconds_per_step: float | None = None
    peak_memory_mib: float | None = None
    training_seconds: float | None = None
    gain_per_minute: float | None = None


@dataclass(frozen=True)
class Comparison:
    """All rows, and what they have in common."""

    rows: tuple[Row, ...] = ()
    dataset_sha256: str = ""
    teacher_miou: float | None = None
    student: str = ""
    steps: int | None = None
    batch_size: int | None = None
    device: str = ""
    seeds: tuple[int, ...] = ()

    @property
    def baseline(self) -> Row | None:
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
        name: what the row is called.
        runs: by seed, at least one.
        seeds: all that are asked for; those without a run stand as None in ``miou``.
        loss, options: what was trained with.
        base: runs of the student alone, by seed; gains are over those of the same seed. Empty: no gain.
    """
    reached = [run.miou for run in runs.values()]
    both = [runs[seed].miou - base[seed].miou for seed in runs if seed in base and loss != BASELINE]
    gain = statistics.fmean(both) if both else None
    seconds = statistics.fmean(run.training_seconds for run in runs.values())
    return Row(
        name=name,
        loss=loss,
        options=options,
        miou=tuple(runs[seed].miou if seed in runs else None for seed in seeds),
        mean=_rounded(statistics.fmean(reached)),
        std=_rounded(statistics.stdev(reached)) if len(reached) > 1 else None,
        gain=_rounded(gain),
        gain_error=_rounded(statistics.stdev(both) / math.sqrt(len(both))) if len(both) > 1 else None,
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
    """The comparison in a file; one without rows when there is no file.

    Raises:
        UserError: a damaged file, with all its faults.
    """
    again = "compare again with: make compare"
    if not file.is_file():
        return Comparison()
    faults = Faults(str(file))
    top = Fields(read_json(file, advice=again), faults)
    seeds = top.integers("seeds")
    classes = len(top.texts("classes"))
    comparison = Comparison(
        rows=tuple(_row(item, seeds=len(seeds), classes=classes) for item in top.items("rows")),
        dataset_sha256=top.text("dataset_sha256"),
        teacher_miou=top.section("teacher").percent("miou"),
        student=top.text("student"),
        steps=top.integer("steps"),
        batch_size=top.integer("batch_size"),
        device=top.text("device"),
        seeds=seeds,
    )
    faults.raise_if_any(advice=again)
    return comparison


def _row(item: Fields, *, seeds: int, classes: int) -> Row:
    return Row(
        name=item.text("name"),
        loss=item.text("loss"),
        options=item.section("options").data,
        miou=item.percents("miou", seeds),
        mean=item.percent("mean"),
        std=item.number("std", low=0),
        gain=item.number("gain"),
        gain_error=item.number("gain_error", low=0),
        per_class_iou=item.percents("per_class_iou", classes),
        seconds_per_step=item.number("seconds_per_step", low=0),
        peak_memory_mib=item.number("peak_memory_mib", low=0),
        training_seconds=item.number("training_seconds", low=0),
        gain_per_minute=item.number("gain_per_minute"),
    )
