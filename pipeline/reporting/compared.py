"""The sections of the page on compared losses and changed params: one per comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.reporting import comparison_figure, comparison_table, curves_figure, gains, interval_figure
from pipeline.reporting.columns import Column
from pipeline.reporting.comparison import BASELINE, Comparison, Row
from pipeline.reporting.comparison_table import Line
from pipeline.reporting.interval_figure import Change
from pipeline.reporting.measured import Result


@dataclass(frozen=True)
class Figure:
    """A figure in two widths: for screens and paper, and for phones."""

    wide: Markup | None
    narrow: Markup | None


@dataclass(frozen=True)
class ClassGains:
    """The figure of what each class gains in one row."""

    row: Row
    figure: Markup


@dataclass(frozen=True)
class Section:
    """One comparison. ``foreign``: it is of other data than the results, and the page shows only one sentence."""

    title: str
    foreign: bool
    lead: str
    caption: str
    seeds: int
    dots: Figure
    curves: Figure
    columns: Sequence[Column[Line]]
    costs: Sequence[Column[Line]]  # the name of the row, and what its training costs
    lines: Sequence[Line]
    class_gains: Sequence[ClassGains]  # the row with the highest gain first
    baseline: str
    split: str
    weights: str


def sections(comparisons: Sequence[Comparison], results: Sequence[Result]) -> list[Section]:
    """A section for each comparison that has rows."""
    shas = {result.dataset_sha256 for result in results}
    shown = [comparison for comparison in comparisons if comparison.rows]
    return [
        _section(comparison, foreign=comparison.dataset_sha256 not in shas, name=f"compared-{index}")
        for index, comparison in enumerate(shown)
    ]


def _section(comparison: Comparison, *, foreign: bool, name: str) -> Section:
    base = comparison.baseline
    columns = comparison_table.shown(comparison)
    costs = [column for column in columns if column in comparison_table.COSTS]
    return Section(
        title=comparison.title,
        foreign=foreign,
        lead=_lead(comparison),
        caption=comparison_table.caption(comparison),
        seeds=len(comparison.seeds),
        dots=Figure(
            comparison_figure.dots(comparison, name=name),
            comparison_figure.dots(comparison, name=f"{name}-narrow", width=380),
        ),
        curves=Figure(
            curves_figure.lines(comparison, name=f"{name}-curves"),
            curves_figure.lines(comparison, name=f"{name}-curves-narrow", width=380),
        ),
        columns=[column for column in columns if column not in costs],
        costs=[columns[0], *costs] if costs else [],
        lines=comparison_table.lines(comparison),
        class_gains=_class_gains(comparison, name),
        baseline=BASELINE if base is None else base.name,
        split=comparison.split,
        weights=comparison.weights,
    )


def _lead(comparison: Comparison) -> str:
    """What the rows have in common, and what differs."""
    length = "number of steps" if comparison.minutes is None else "minutes of training"
    if comparison.of_changes:
        return f"The same student and {length}; the rows differ in the params of the column changed."
    return f"The same student, teacher and {length}; only the loss differs."


def _class_gains(comparison: Comparison, name: str) -> list[ClassGains]:
    best = gains.best(comparison)
    found = []
    for index, row in enumerate(comparison.rows):
        changes = [Change(each.name, each.gain.mean, each.gain.interval) for each in gains.of_classes(row, comparison)]
        title = f"Change of IoU of each class by {row.name}"
        figure = interval_figure.dots(changes, name=f"{name}-classes-{index}", title=title)
        if figure is not None:
            found.append(ClassGains(row, figure))
    return sorted(found, key=lambda each: each.row is not best)
