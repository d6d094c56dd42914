"""The table of compared losses: for the terminal, for a README, and as cells for the page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from pipeline.reporting.comparison import BASELINE, Comparison, Row
from pipeline.reporting.table import plain
from pipeline.reporting.wording import NOT_MEASURED, TIMES, fixed, signed

#: mIoU in percent, gains in points over the student alone; ms of one training step, and against the student alone.
COLUMNS = (
    "name",
    "loss",
    "mIoU",
    "gain",
    "ms a step",
    "cost",
    "minutes",
    "gain a minute",
    "peak MiB",
)
TEXT_COLUMNS = ("name", "loss")
NOTHING = "\N{EN DASH}"


def cells(row: Row, comparison: Comparison) -> tuple[str, ...]:
    """One row, in the order of :data:`COLUMNS`."""
    base = comparison.baseline
    alone = row.loss == BASELINE
    step = row.seconds_per_step
    ratio = step / base.seconds_per_step if base and base.seconds_per_step and step is not None else None
    return (
        row.name,
        row.loss,
        _with_error(fixed(row.mean), row.std),
        NOTHING if alone else _with_error(signed(row.gain), row.gain_error),
        NOT_MEASURED if step is None else fixed(1000 * step, 0 if step >= 0.1 else 1),
        NOTHING if ratio is None else f"{ratio:.2f}{TIMES}",
        NOT_MEASURED if row.training_seconds is None else fixed(row.training_seconds / 60),
        NOTHING if alone else signed(row.gain_per_minute, 2),
        fixed(row.peak_memory_mib, 0),
    )


def _with_error(text: str, error: float | None) -> str:
    return text if error is None or text == NOT_MEASURED else f"{text} ± {fixed(error)}"


def caption(comparison: Comparison) -> str:
    """What the rows have in common, and what the columns mean."""
    count = len(comparison.seeds)
    return (
        f"student {comparison.student}, {count} seed{'s' if count != 1 else ''}, {comparison.steps} steps of "
        f"{comparison.batch_size}; teacher {fixed(comparison.teacher_miou)} mIoU; mIoU on val: mean ± standard "
        f"deviation over seeds; gain over {BASELINE} of the same seed: mean ± standard error; cost: time of a step "
        f"against {BASELINE}; trained on {comparison.device}"
    )


def markdown(comparison: Comparison) -> str:
    """The table as GitHub Markdown with a final newline."""
    if not comparison.rows:
        return "No loss is compared yet; run make compare.\n"
    rule = ["---" if name in TEXT_COLUMNS else "---:" for name in COLUMNS]
    body = [tuple(plain(cell) for cell in cells(row, comparison)) for row in comparison.rows]
    lines: Sequence[Sequence[str]] = [COLUMNS, rule, *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{plain(caption(comparison))}\n"


def rich_table(comparison: Comparison) -> Table:
    """The same table for the terminal."""
    table = Table(title="Losses compared", title_justify="left", caption_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in TEXT_COLUMNS else "right")
    for row in comparison.rows:
        first, *rest = cells(row, comparison)
        table.add_row(Text(first, style="bold"), *map(Text, rest))
    table.caption = Text(caption(comparison))
    return table
