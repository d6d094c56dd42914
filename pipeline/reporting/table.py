"""The table of results: one row per student, for the README (Markdown), the terminal (rich) and the page.

A new column is one line of :data:`COLUMNS`. A value of results files that the report does not read yet is one more
field in :mod:`pipeline.reporting.measured`.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from pipeline.reporting import columns
from pipeline.reporting.columns import Column, plain
from pipeline.reporting.measured import Result
from pipeline.reporting.wording import (
    NOT_MEASURED,
    best_and_last,
    fastest,
    fixed,
    latency,
    megabytes,
    notes,
    speed_up,
    verdict,
    worst,
)

_STYLES = {"pass": "bold green", "fail": "bold red", NOT_MEASURED: "dim"}
#: The page shows this one as a badge.
VERDICT = Column[Result]("verdict", verdict, left=True, style=lambda result: _STYLES[result.verdict])
#: mIoU in percent, drops in points, latency in ms, sizes in MB of 10^6 bytes.
COLUMNS: tuple[Column[Result], ...] = (
    Column("student", lambda result: result.label, left=True),
    Column("loss", lambda result: result.training or NOT_MEASURED, left=True),
    Column("teacher mIoU", lambda result: fixed(result.teacher.miou)),
    Column("float mIoU", lambda result: fixed(result.reference.miou)),
    Column("best / last", best_and_last),
    Column("INT8 mIoU", lambda result: fixed(result.int8.miou)),
    Column("drop", lambda result: fixed(result.drop.versus_float)),
    Column("worst class drop", worst, left=True),
    Column("fp32 ms p50", lambda result: latency(result, "fp32")),
    Column("INT8 ms p50", lambda result: latency(result, "int8")),
    Column("speed-up", speed_up),
    Column("float MB", lambda result: megabytes(result.fp32.size_bytes)),
    Column("INT8 MB", lambda result: megabytes(result.int8.size_bytes)),
    Column("fastest", fastest, left=True),
    VERDICT,
)


def markdown(results: Sequence[Result]) -> str:
    """The table as GitHub Markdown with a final newline, and the warnings below it."""
    if not results:
        return f"No student is measured yet: {NOT_MEASURED}.\n"
    warnings = [f"{result.label}: {warning.what}" for result in results for warning in result.warnings]
    lines = "".join(f"- {plain(warning)}\n" for warning in warnings)
    return columns.markdown(COLUMNS, results) + (f"\n{lines}" if lines else "")


def rich_table(results: Sequence[Result]) -> Table:
    """The same table for the terminal, with broken budgets, warnings and undecided classes below it."""
    lines = [f"{result.label}: {violation.what}" for result in results for violation in result.violations]
    lines += [f"{result.label}: {what}" for result in results for what in notes(result)]
    caption = "\n".join(lines) or "mIoU in percent, sizes in MB of 10^6 bytes"
    return columns.rich_table(COLUMNS, results, title="INT8 against float and teacher", caption=caption)


def violations_table(results: Sequence[Result]) -> Table:
    """The broken budgets, and the students without a results file, for the terminal."""
    table = Table(title="broken budgets", title_justify="left")
    for name in ("student", "budget", "limit", "got", "what"):
        table.add_column(name, justify="right" if name in ("limit", "got") else "left")
    for result in results:
        for violation in result.violations:
            limit, got = fixed(violation.limit), fixed(violation.got)
            table.add_row(*map(Text, (result.label, violation.budget, limit, got, violation.what)))
        if not result.violations:
            table.add_row(
                Text(result.label),
                NOT_MEASURED,
                "",
                "",
                "there is no results file for this student; run dvc repro check",
            )
    return table
