"""Tables from a list of columns: Markdown for files, rich for the terminal; the page shows the same columns.

The columns themselves are in table.py (results) and comparison_table.py (comparison of losses).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.reporting.wording import NOT_MEASURED

T = TypeVar("T")


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column of a table whose rows are values of type ``T``.

    Args:
        title: heading, with the unit.
        cell: the text of one row.
        left: text is aligned on the left, numbers on the right.
        style: of a cell in the terminal, as a style of rich.
    """

    title: str
    cell: Callable[[T], str]
    left: bool = False
    style: Callable[[T], str] | None = None


def markdown(columns: Sequence[Column[T]], rows: Iterable[T]) -> str:
    """A GitHub Markdown table with a final newline."""
    lines = [[column.title for column in columns], ["---" if column.left else "---:" for column in columns]]
    lines += [[plain(column.cell(row)) for column in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rich_table(
    columns: Sequence[Column[T]], rows: Iterable[T], *, title: str | None = None, caption: str | None = None
) -> Table:
    """A table for the terminal; the first column names the rows."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = None if caption is None else Text(caption)
    for column in columns:
        table.add_column(column.title, justify="left" if column.left else "right")
    first, *others = columns
    for row in rows:
        table.add_row(Text(first.cell(row), style="bold"), *(_styled(column, row) for column in others))
    return table


def rich_tables(columns: Sequence[Column[T]], rows: Sequence[T], *, title: str, caption: str, width: int) -> Group:
    """The table for a terminal of ``width`` characters: as many tables, one below the other, as its columns need.

    Each of them begins with the first column. A cell is wrapped only where it is too wide for a table of two columns.
    """
    first, *others = columns
    parts: list[list[Column[T]]] = [[first]]
    for column in others:
        if len(parts[-1]) > 1 and sum(_width(each, rows) for each in (*parts[-1], column)) + 1 > width:
            parts.append([first])
        parts[-1].append(column)
    return Group(Text(title, style="italic"), *(rich_table(part, rows) for part in parts), Text(caption, style="dim"))


def _width(column: Column[T], rows: Iterable[T]) -> int:
    """Characters of a column in a table of rich: its widest text, a blank on either side, and a border."""
    return max(map(len, (column.title, *map(column.cell, rows)))) + 3


def _styled(column: Column[T], row: T) -> Text:
    text = column.cell(row)
    if column.style is not None:
        return Text(text, style=column.style(row))
    return Text(text, style="dim" if text == NOT_MEASURED else "")


def plain(cell: str) -> str:
    """Text that Markdown shows unchanged: no cell, tag, emphasis or line break begins in it."""
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", " ".join(cell.split())).replace("&", "&amp;").replace("<", "&lt;")
