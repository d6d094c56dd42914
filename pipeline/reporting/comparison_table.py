"""The table of compared losses, for the terminal, for Markdown and for the page.

A new column is one line of :data:`COLUMNS`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group

from pipeline.reporting import columns, gains
from pipeline.reporting.columns import Column, plain
from pipeline.reporting.comparison import BASELINE, Comparison, Figures, Row
from pipeline.reporting.intervals import CONFIDENCE
from pipeline.reporting.wording import NOT_MEASURED, TIMES, fixed, signed, signed_interval

NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Line:
    """A row of the comparison beside the baseline, if there is one, and the comparison."""

    row: Row
    alone: Row | None
    comparison: Comparison

    @property
    def is_alone(self) -> bool:
        return self.row == self.alone


def lines(comparison: Comparison) -> list[Line]:
    return [Line(row, comparison.baseline, comparison) for row in comparison.rows]


def _mean(figures: Figures) -> str:
    return _with_error(fixed(figures.mean), figures.std)


def _gain(line: Line, figures: Figures) -> str:
    return NOTHING if line.is_alone else _with_error(signed(figures.gain), figures.gain_error)


def _interval(line: Line) -> str:
    """``−0.2 to +0.8 (within spread)``: the gain of the chosen weights."""
    gain = gains.of_miou(line.row, line.comparison)
    if gain is None:
        return NOTHING
    return gain.verdict if gain.interval is None else f"{signed_interval(gain.interval)} ({gain.verdict})"


def changes(row: Row) -> str:
    """``distill.ema 0.999, distill.lr 0.001``; a dash for a row without changes."""
    texts = [f"{key} {json.dumps(value).strip(chr(34))}" for key, value in row.changes.items()]
    return ", ".join(texts) or NOTHING


def _gain_per_minute(line: Line) -> str:
    return NOTHING if line.is_alone else signed(line.row.gain_per_minute, 2)


def _worst(line: Line) -> str:
    """The class with the lowest IoU, and its IoU."""
    ious = line.row.of(line.comparison.weights).per_class_iou
    return _named(line, [None if iou is None else -iou for iou in ious], ious)


def _worst_drop(line: Line) -> str:
    """The class that loses most in INT8, and its loss in points of IoU."""
    return _named(line, line.row.int8_drop, line.row.int8_drop)


def _named(line: Line, order: Sequence[float | None], values: Sequence[float | None]) -> str:
    """The class with the highest ``order``, and its value."""
    known = [(value, index) for index, value in enumerate(order) if value is not None]
    if not known:
        return NOT_MEASURED
    _, index = max(known)
    return f"{line.comparison.classes[index]} {fixed(values[index])}"


def _steps(line: Line) -> str:
    return NOT_MEASURED if line.row.steps is None else str(line.row.steps)


def _milliseconds(line: Line) -> str:
    seconds = line.row.seconds_per_step
    return NOT_MEASURED if seconds is None else fixed(1000 * seconds, 0 if seconds >= 0.1 else 1)


def _cost(line: Line) -> str:
    """Time of a step / time of a step of the baseline."""
    seconds, alone = line.row.seconds_per_step, line.alone.seconds_per_step if line.alone else None
    return NOTHING if seconds is None or not alone else f"{seconds / alone:.2f}{TIMES}"


def _minutes(line: Line) -> str:
    seconds = line.row.training_seconds
    return NOT_MEASURED if seconds is None else fixed(seconds / 60)


def _with_error(text: str, error: float | None) -> str:
    return text if error is None or text == NOT_MEASURED else f"{text} ± {fixed(error)}"


PER_MINUTE = Column("gain per minute", _gain_per_minute)

#: What training costs, on the page a table of its own. Time of one training step, and against the baseline.
COSTS: tuple[Column[Line], ...] = (
    Column("steps", _steps),
    Column("ms per step", _milliseconds),
    Column("cost", _cost),
    Column("minutes", _minutes),
    PER_MINUTE,
    Column("peak MiB", lambda line: fixed(line.row.peak_memory_mib, 0)),
)
#: mIoU in percent, gains in points over the baseline.
COLUMNS: tuple[Column[Line], ...] = (
    Column("name", lambda line: line.row.name, left=True),
    Column("loss", lambda line: line.row.loss, left=True),
    Column("changed", lambda line: changes(line.row), left=True),
    Column("best mIoU", lambda line: _mean(line.row.best)),
    Column("best gain", lambda line: _gain(line, line.row.best)),
    Column("last mIoU", lambda line: _mean(line.row.last)),
    Column("last gain", lambda line: _gain(line, line.row.last)),
    Column(f"{CONFIDENCE}% interval of the gain", _interval, left=True),
    Column("INT8 mIoU", lambda line: _mean(line.row.int8)),
    Column("worst class drop", _worst_drop, left=True),
    Column("worst class", _worst, left=True),
    *COSTS,
)


def shown(comparison: Comparison) -> list[Column[Line]]:
    """The columns without those in which no row has a value, such as INT8 where nothing was quantised.

    Where all rows train for the same minutes, the gain per minute says the same as the gain, and is left out.
    """
    rows = lines(comparison)
    chosen = [column for column in COLUMNS if column is not PER_MINUTE or comparison.minutes is None]
    return [column for column in chosen if any(column.cell(line) not in (NOT_MEASURED, NOTHING) for line in rows)]


def length(comparison: Comparison) -> str:
    """How long each run trains: ``300 steps, batches of 4``, or ``0.6 minutes, batches of 4``."""
    budget = f"{comparison.steps} steps" if comparison.minutes is None else f"{fixed(comparison.minutes)} minutes"
    return f"{budget}, batches of {comparison.batch_size}"


def caption(comparison: Comparison) -> str:
    """The common facts of the rows, and the meaning of the columns."""
    count = len(comparison.seeds)
    of_weights = ["interval", "worst class (lowest IoU)", "INT8"]
    if comparison.minutes is None:
        of_weights.insert(1, "gain per minute")
    base = comparison.baseline.name if comparison.baseline else BASELINE
    return (
        f"student {comparison.student}, {count} seed{'s' if count != 1 else ''}, {length(comparison)}; teacher "
        f"{fixed(comparison.teacher.miou)} mIoU; mIoU on {comparison.split} of the best weights on val and of the last "
        f"ones: mean ± standard deviation over seeds; gain over {base} of the same seed: mean ± standard error; "
        f"interval: Student's t over the paired seeds, within spread if it contains 0; "
        f"{', '.join(of_weights[:-1])} and {of_weights[-1]}: of the {comparison.weights} weights; cost: time of a "
        f"step against {base}; trained on {comparison.device}"
    )


def markdown(comparison: Comparison) -> str:
    """The table as GitHub Markdown with a final newline."""
    if not comparison.rows:
        return "No loss is compared yet; run make compare.\n"
    return f"{columns.markdown(shown(comparison), lines(comparison))}\n{plain(caption(comparison))}\n"


def rich_tables(comparison: Comparison, *, width: int) -> Group:
    """The same table for a terminal of ``width`` characters."""
    texts = {"title": comparison.title, "caption": caption(comparison)}
    return columns.rich_tables(shown(comparison), lines(comparison), width=width, **texts)
