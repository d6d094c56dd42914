"""The table of compared losses, for the terminal, for Markdown and for the page.

A new column is one line of :data:`COLUMNS`.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from pipeline.reporting import columns
from pipeline.reporting.columns import Column, plain
from pipeline.reporting.comparison import BASELINE, Comparison, Row
from pipeline.reporting.wording import NOT_MEASURED, TIMES, fixed, signed

NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Line:
    """A row of the comparison beside the row of the student alone, if there is one."""

    row: Row
    alone: Row | None

    @property
    def is_alone(self) -> bool:
        return self.row.loss == BASELINE


def lines(comparison: Comparison) -> list[Line]:
    return [Line(row, comparison.baseline) for row in comparison.rows]


def _mean(line: Line) -> str:
    return _with_error(fixed(line.row.mean), line.row.std)


def _gain(line: Line) -> str:
    return NOTHING if line.is_alone else _with_error(signed(line.row.gain), line.row.gain_error)


def _gain_per_minute(line: Line) -> str:
    return NOTHING if line.is_alone else signed(line.row.gain_per_minute, 2)


def _milliseconds(line: Line) -> str:
    seconds = line.row.seconds_per_step
    return NOT_MEASURED if seconds is None else fixed(1000 * seconds, 0 if seconds >= 0.1 else 1)


def _cost(line: Line) -> str:
    """Time of a step / time of a step of the student alone."""
    seconds, alone = line.row.seconds_per_step, line.alone.seconds_per_step if line.alone else None
    return NOTHING if seconds is None or not alone else f"{seconds / alone:.2f}{TIMES}"


def _minutes(line: Line) -> str:
    seconds = line.row.training_seconds
    return NOT_MEASURED if seconds is None else fixed(seconds / 60)


def _with_error(text: str, error: float | None) -> str:
    return text if error is None or text == NOT_MEASURED else f"{text} ± {fixed(error)}"


#: mIoU in percent, gains in points over the student alone; time of one training step, and against the student alone.
COLUMNS: tuple[Column[Line], ...] = (
    Column("name", lambda line: line.row.name, left=True),
    Column("loss", lambda line: line.row.loss, left=True),
    Column("mIoU", _mean),
    Column("gain", _gain),
    Column("ms per step", _milliseconds),
    Column("cost", _cost),
    Column("minutes", _minutes),
    Column("gain per minute", _gain_per_minute),
    Column("peak MiB", lambda line: fixed(line.row.peak_memory_mib, 0)),
)


def caption(comparison: Comparison) -> str:
    """The common facts of the rows, and the meaning of the columns."""
    count = len(comparison.seeds)
    return (
        f"student {comparison.student}, {count} seed{'s' if count != 1 else ''}, {comparison.steps} steps of "
        f"{comparison.batch_size}; teacher {fixed(comparison.teacher.miou)} mIoU; mIoU on val: mean ± standard "
        f"deviation over seeds; gain over {BASELINE} of the same seed: mean ± standard error; cost: time of a step "
        f"against {BASELINE}; trained on {comparison.device}"
    )


def markdown(comparison: Comparison) -> str:
    """The table as GitHub Markdown with a final newline."""
    if not comparison.rows:
        return "No loss is compared yet; run make compare.\n"
    return f"{columns.markdown(COLUMNS, lines(comparison))}\n{plain(caption(comparison))}\n"


def rich_table(comparison: Comparison) -> Table:
    """The same table for the terminal."""
    return columns.rich_table(COLUMNS, lines(comparison), title="Losses compared", caption=caption(comparison))
