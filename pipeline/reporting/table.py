"""The result table: one row a student, for the README (Markdown) and for the terminal (rich)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from pipeline.reporting.measured import Result
from pipeline.reporting.wording import (
    NOT_MEASURED,
    fixed,
    marked,
    megabytes,
    milliseconds,
    notes,
    speed_up,
    verdict,
    worst,
)

#: mIoU and drops in percent points, latency in ms, sizes in MB of 10^6 bytes.
COLUMNS = (
    "student",
    "loss",
    "teacher mIoU",
    "float mIoU",
    "INT8 mIoU",
    "drop",
    "worst class drop",
    "fp32 ms p50",
    "INT8 ms p50",
    "speed-up",
    "float MB",
    "INT8 MB",
    "verdict",
)
TEXT_COLUMNS = ("student", "loss", "worst class drop", "verdict")


def row(result: Result) -> tuple[str, ...]:
    """The cells of one student, in the order of :data:`COLUMNS`."""
    unstable = result.unstable
    return (
        result.label,
        result.taught or NOT_MEASURED,
        fixed(result.teacher.miou),
        fixed(result.reference.miou),
        fixed(result.int8.miou),
        fixed(result.drop.versus_float),
        worst(result),
        marked(milliseconds(result.fp32.latency.p50), "unstable" if "fp32" in unstable else ""),
        marked(milliseconds(result.int8.latency.p50), "unstable" if "int8" in unstable else ""),
        speed_up(result),
        megabytes(result.fp32.size_bytes),
        megabytes(result.int8.size_bytes),
        verdict(result),
    )


def markdown(results: Sequence[Result]) -> str:
    """The table as GitHub Markdown with a final newline, ready to stand in a README."""
    if not results:
        return f"No student is measured yet: {NOT_MEASURED}.\n"
    rule = ["---" if name in TEXT_COLUMNS else "---:" for name in COLUMNS]
    lines = [COLUMNS, tuple(rule), *(tuple(plain(cell) for cell in row(result)) for result in results)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    warnings = [f"{result.label}: {warning.what}" for result in results for warning in result.warnings]
    return table + ("\n" + "".join(f"- {plain(warning)}\n" for warning in warnings) if warnings else "")


def rich_table(results: Sequence[Result]) -> Table:
    """The same table for the terminal."""
    table = Table(title="INT8 against float and teacher", title_justify="left", caption_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in TEXT_COLUMNS else "right")
    styles = {"pass": "bold green", "fail": "bold red", NOT_MEASURED: "dim"}
    for result in results:
        cells = row(result)
        table.add_row(
            Text(cells[0], style="bold"),
            *(Text(cell, style=styles.get(cell, "")) for cell in cells[1:-1]),
            Text(cells[-1], style=styles[result.verdict]),
        )
    said = [f"{result.label}: {violation.what}" for result in results for violation in result.violations]
    said += [f"{result.label}: {what}" for result in results for what in notes(result)]
    table.caption = Text("\n".join(said) if said else "mIoU in percent, sizes in MB of 10^6 bytes")
    return table


def violations_table(results: Sequence[Result]) -> Table:
    """What broke which budget, for the terminal."""
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


def plain(cell: str) -> str:
    """Text that Markdown shows as it is: no cell, tag, emphasis or line break begins in it."""
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", " ".join(cell.split())).replace("&", "&amp;").replace("<", "&lt;")
