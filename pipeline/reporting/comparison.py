"""Losses compared on one student: runs -> rows of means, spreads and gains; and results/comparison*.json read again.

mIoU and IoU are percent, gains points of mIoU over the student alone (``none``), paired by seed and by weights.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.reporting import json_file
from pipeline.reporting.json_file import Count, JsonObject, NotNegative, Number, Percent, require_lengths
from pipeline.reporting.measured import Teacher

FILE = "comparison.json"
#: More comparisons, each a section of the report of its own.
MORE = "comparison-*.json"
TITLE = "Losses compared"
BASELINE = "none"
#: The best weights of a training on val, or those after its last step.
Which = Literal["best", "last"]


@dataclass(frozen=True)
class Measured:
    """A network measured on a split; IoU is None for classes that the labels lack."""

    miou: float
    per_class_iou: Sequence[float | None]


class Curve(JsonObject):
    """mIoU of the float network on val at each validation of a training."""

    steps: tuple[Count, ...]
    miou: tuple[Percent, ...]

    @model_validator(mode="after")
    def _one_value_per_step(self) -> Curve:
        require_lengths({"miou": self.miou}, len(self.steps), key="steps")
        return self


@dataclass(frozen=True)
class Run:
    """One training run: its best and its last weights in float, its cost, and INT8 where it was checked.

    ``int8_drop``: points of IoU that INT8 loses against float, per class. ``curve``: None where none was written.
    """

    best: Measured
    last: Measured
    seconds_per_step: float
    training_seconds: float
    peak_memory_mib: float
    int8: Measured | None = None
    int8_drop: Sequence[float | None] = ()
    curve: Curve | None = None


class Figures(JsonObject):
    """One kind of network over all seeds; None is not measured (yet), or undefined for a single seed."""

    miou: tuple[Percent | None, ...] = ()  # of each seed
    mean: Percent | None = None
    std: NotNegative | None = None
    gain: Number | None = None
    gain_error: NotNegative | None = None
    per_class_iou: tuple[Percent | None, ...] = ()
    ious: tuple[
        tuple[Percent | None, ...] | None, ...
    ] = ()  # of each seed, per class; empty in files of earlier versions


class Row(JsonObject):
    """One loss or one change of params: best and last weights, INT8 where it was checked, costs over all seeds.

    ``options``: of each loss, by its name; and changed params, by their dotted keys.
    """

    name: str = ""
    loss: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    steps: Count | None = None  # where losses differ in them
    best: Figures = Figures()
    last: Figures = Figures()
    int8: Figures = Figures()
    int8_drop: tuple[Number | None, ...] = ()  # points of IoU per class, mean over seeds
    seconds_per_step: NotNegative | None = None
    peak_memory_mib: NotNegative | None = None
    training_seconds: NotNegative | None = None
    gain_per_minute: Number | None = None
    curves: tuple[Curve | None, ...] = ()  # of each seed; empty in files of earlier versions

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, fields: Any) -> Any:
        """Earlier versions measured the best weights only, and wrote their figures into the row itself."""
        if not isinstance(fields, dict) or "miou" not in fields or "best" in fields:
            return fields
        return {**fields, "best": {key: fields[key] for key in Figures.model_fields if key in fields}}

    def of(self, weights: Which) -> Figures:
        return self.best if weights == "best" else self.last

    @property
    def changes(self) -> dict[str, Any]:
        """The changed params: options that are not those of a loss."""
        return {key: value for key, value in self.options.items() if key not in self.loss.split("+")}


class Comparison(JsonObject):
    """All rows, and their common facts."""

    title: str = TITLE
    rows: tuple[Row, ...] = ()
    classes: tuple[str, ...] = ()
    dataset_sha256: str = ""
    split: str = "val"
    teacher: Teacher = Teacher()
    student: str = ""
    model: dict[str, Any] = Field(default_factory=dict)  # of the student, as in params.yaml
    weights: Which = "best"  # for gain per minute and INT8
    steps: Count | None = None
    minutes: NotNegative | None = None  # of training per run, where every loss has the same; None: the same steps
    batch_size: Count | None = None
    device: str = ""
    seeds: tuple[Count, ...] = ()

    @model_validator(mode="after")
    def _one_entry_per_seed_and_class(self) -> Comparison:
        figures = {
            f"rows[{index}].{name}": getattr(row, name)
            for index, row in enumerate(self.rows)
            for name in ("best", "last", "int8")
        }
        ious = {f"{place}.per_class_iou": each.per_class_iou for place, each in figures.items()}
        ious |= {f"rows[{index}].int8_drop": row.int8_drop for index, row in enumerate(self.rows)}
        seeds: dict[str, Sequence[Any]] = {f"{place}.miou": each.miou for place, each in figures.items()}
        seeds |= {f"{place}.ious": each.ious for place, each in figures.items()}
        seeds |= {f"rows[{index}].curves": row.curves for index, row in enumerate(self.rows)}
        for place, each in figures.items():
            ious |= {f"{place}.ious[{index}]": values or () for index, values in enumerate(each.ious)}
        require_lengths(seeds, len(self.seeds), key="seeds")
        require_lengths(ious, len(self.classes), key="classes")
        return self

    @property
    def baseline(self) -> Row | None:
        """The row that the others gain over: the student without a teacher, else the row without a changed param."""
        alone = [row for row in self.rows if row.loss == BASELINE]
        if not alone and not self.of_changes:
            return None
        unchanged = [row for row in alone or self.rows if not row.changes]
        return next(iter(unchanged or alone), None)

    @property
    def of_changes(self) -> bool:
        """Whether rows differ in params beside the loss."""
        return any(row.changes for row in self.rows)


def summarise(
    name: str,
    runs: Mapping[int, Run],
    *,
    seeds: Sequence[int],
    loss: str,
    options: Mapping[str, Any],
    base: Mapping[int, Run],
    weights: Which = "best",
    steps: int | None = None,
) -> Row:
    """The row of one loss.

    Args:
        name: of the row.
        runs: by seed, at least one.
        seeds: all seeds of the comparison; ``miou`` holds None for those without a run.
        loss, options: of the training.
        base: runs that gains are measured against, by seed; a gain compares runs of the same seed. Empty, or ``runs``
            itself: no gain.
        weights: from which the gain per minute is computed.
        steps: of each run, where losses differ in them.
    """
    base = {} if base is runs else base
    best = _figures(runs, base, lambda run: run.best, seeds=seeds)
    last = _figures(runs, base, lambda run: run.last, seeds=seeds)
    gain = (best if weights == "best" else last).gain
    seconds = statistics.fmean(run.training_seconds for run in runs.values())
    curves = tuple(runs[seed].curve if seed in runs else None for seed in seeds)
    return Row(
        name=name,
        loss=loss,
        options=dict(options),
        steps=steps,
        best=best,
        last=last,
        int8=_figures(runs, base, lambda run: run.int8, seeds=seeds),
        int8_drop=_means([run.int8_drop for run in runs.values() if run.int8_drop]),
        seconds_per_step=_rounded(statistics.median(run.seconds_per_step for run in runs.values()), 6),
        peak_memory_mib=_rounded(max(run.peak_memory_mib for run in runs.values())),
        training_seconds=_rounded(seconds, 3),
        gain_per_minute=_rounded(gain / (seconds / 60)) if gain is not None and seconds > 0 else None,
        curves=curves if any(curves) else (),
    )


def _figures(
    runs: Mapping[int, Run], base: Mapping[int, Run], network: Callable[[Run], Measured | None], *, seeds: Sequence[int]
) -> Figures:
    """The figures of one network of each run; empty where no run has it."""
    measured = {seed: each for seed, run in runs.items() if (each := network(run)) is not None}
    if not measured:
        return Figures()
    alone = {seed: each for seed, run in base.items() if (each := network(run)) is not None}
    mious = [each.miou for each in measured.values()]
    gains = [each.miou - alone[seed].miou for seed, each in measured.items() if seed in alone]
    return Figures(
        miou=tuple(measured[seed].miou if seed in measured else None for seed in seeds),
        mean=_rounded(statistics.fmean(mious)),
        std=_rounded(statistics.stdev(mious)) if len(mious) > 1 else None,
        gain=_rounded(statistics.fmean(gains)) if gains else None,
        gain_error=_rounded(statistics.stdev(gains) / math.sqrt(len(gains))) if len(gains) > 1 else None,
        per_class_iou=_means([each.per_class_iou for each in measured.values()]),
        ious=tuple(tuple(measured[seed].per_class_iou) if seed in measured else None for seed in seeds),
    )


def _means(rows: Sequence[Sequence[float | None]]) -> tuple[float | None, ...]:
    """Mean of each class over runs; None where no run has a value."""
    return tuple(map(_mean, zip(*rows, strict=True)))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(statistics.fmean(known)) if known else None


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def files(folder: Path) -> list[Path]:
    """The files of comparisons in a folder: comparison.json first, then the others by name."""
    return [file for file in (folder / FILE, *sorted(folder.glob(MORE))) if file.is_file()]


def load(file: Path) -> Comparison:
    """The comparison in a file; without a file, one without rows.

    Without a title, ``comparison-teachers.json`` has the title "Losses compared: teachers".

    Raises:
        UserError: the file is invalid.
    """
    if not file.is_file():
        return Comparison()
    loaded = json_file.read(Comparison, file, advice="compare again with: make compare")
    if file.name == FILE or "title" in loaded.model_fields_set:
        return loaded
    return loaded.model_copy(update={"title": f"{TITLE}: {file.stem.removeprefix('comparison-')}"})
