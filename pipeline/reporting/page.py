"""The report: one self-contained HTML page with the gains and losses of INT8.

The page holds no date, host or path, so that equal results give equal bytes. The layout is in ``report.html.j2``; this
module collects the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.prepared import Prepared
from pipeline.reporting import (
    card,
    class_losses,
    comparison_figure,
    comparison_table,
    figures,
    rare,
    samples,
    sensitivity_figure,
    table,
    wording,
)
from pipeline.reporting.class_losses import Row
from pipeline.reporting.comparison import Comparison
from pipeline.reporting.measured import SIZES, Result
from pipeline.reporting.samples import Strip
from pipeline.reporting.svg import THEME
from pipeline.reporting.wording import NOT_MEASURED, factor, fixed, megabytes, milliseconds, signed

T = TypeVar("T")

LATENCY_SCOPE = "uint8 frame in host memory \N{RIGHTWARDS ARROW} label map in host memory, resize not included"


@dataclass(frozen=True)
class Tile:
    """A key number of the page: title, value, a note with its sources, and warnings (``marks``)."""

    title: str
    value: str
    note: str
    marks: Sequence[str] = ()


@dataclass(frozen=True)
class Student:
    """One student as the page shows it."""

    result: Result
    colour: str
    summary: str
    notes: Sequence[str]
    classes: Sequence[Row]
    bars: Markup | None
    layers: Markup | None
    strips: Sequence[Strip]


def build(results: Sequence[Result], *, dataset: Path, predictions: Path, compared: Comparison | None = None) -> str:
    """The page for ``results``, with sample frames and rare classes from disk.

    Args:
        results: from :func:`pipeline.reporting.results.load`.
        dataset: prepared data set.
        predictions: folder with one ``predictions`` artifact per student; a missing one is shown as not measured.
        compared: losses compared on one student; shown only if they were compared on the data of these results.

    Raises:
        UserError: the data set or a predictions artifact is damaged, or does not belong to the results.
    """
    prepared = Prepared(dataset)
    for result in results:
        if result.classes and result.classes != prepared.labels.names:
            raise UserError(
                f"the results of student '{result.student}' have the classes {', '.join(result.classes)}; "
                f"{dataset} has {', '.join(prepared.labels.names)}; measure again with: dvc repro check"
            )
    split = next((result.split for result in results if result.split), "")
    shares = rare.shares(prepared.split(split), prepared.labels) if split else {}
    strips = {result.label: samples.strips(prepared, predictions / result.student) for result in results}
    return render(results, labels=prepared.labels, shares=shares, strips=strips, compared=compared)


def render(
    results: Sequence[Result],
    *,
    labels: LabelSpec,
    shares: Mapping[str, float],
    strips: Mapping[str, Sequence[Strip]],
    compared: Comparison | None = None,
) -> str:
    """The page from values alone.

    Args:
        results: in the order to show them.
        labels: class names and colours for the legend.
        shares: share of each class in the labelled pixels, 0..1.
        strips: sample strips by student label.
        compared: losses compared on one student.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.globals.update(fixed=fixed, signed=signed, ms=milliseconds, mb=megabytes, count=wording.count)
    environment.globals.update(interval=wording.interval, confidence=wording.confidence)
    environment.filters["hex"] = lambda colour: "#{:02x}{:02x}{:02x}".format(*colour)
    template = environment.from_string(resources.files(__package__).joinpath("report.html.j2").read_text("utf-8"))
    best = wording.best(results)
    students = _students(results, strips)
    return template.render(
        best=best,
        best_summary=wording.summary(best) if best else "",
        tiles=_tiles(best, wording.baseline(results)) if best else [],
        students=students,
        sampled=sorted(students, key=lambda student: student.result is not best),
        plane=figures.accuracy_against_latency(results),
        plane_narrow=figures.accuracy_against_latency(results, width=380, height=360),
        columns=table.COLUMNS,
        verdict_column=table.VERDICT,
        results=results,
        rare=rare.rare(shares),
        sizes=SIZES,
        compared=_compared(compared, results),
        labels=labels,
        cards=[card.block(result) for result in results],
        devices=_distinct([result.device for result in results if result.device]),
        teachers=_distinct([result.teacher for result in results if result.teacher.model]),
        sources=_distinct(
            [(r.dataset, r.split, r.images, r.input_size, r.absent_classes) for r in results if r.dataset or r.split]
        ),
        latency_scope=LATENCY_SCOPE,
        not_measured=NOT_MEASURED,
    )


def _students(results: Sequence[Result], strips: Mapping[str, Sequence[Strip]]) -> list[Student]:
    palette = figures.colours(results)
    variables = {placeholder: f"var(--{name})" for name, placeholder in THEME.items()}
    return [
        Student(
            result=result,
            colour=variables[palette[result.label]],
            summary=wording.summary(result),
            notes=wording.notes(result),
            classes=class_losses.rows(result),
            bars=figures.class_bars(result, name=f"bars-{index}", colour=palette[result.label]),
            layers=sensitivity_figure.bars(result, name=f"layers-{index}"),
            strips=strips.get(result.label, ()),
        )
        for index, result in enumerate(results)
    ]


def _compared(comparison: Comparison | None, results: Sequence[Result]) -> dict[str, Any] | None:
    """The compared losses, for the page; it shows only one sentence if they are from other data (``imported``)."""
    if comparison is None or not comparison.rows:
        return None
    return {
        "imported": comparison.dataset_sha256 not in {result.dataset_sha256 for result in results},
        "student": comparison.student,
        "caption": comparison_table.caption(comparison),
        "wide": comparison_figure.dots(comparison),
        "narrow": comparison_figure.dots(comparison, width=380),
        "equal": "number of steps" if comparison.minutes is None else "minutes of training",
        "columns": comparison_table.shown(comparison),
        "lines": comparison_table.lines(comparison),
    }


def _tiles(best: Result, base: Result | None) -> list[Tile]:
    drop, fp32, int8 = best.drop, best.fp32, best.int8
    tiles = [
        Tile("INT8 mIoU", fixed(int8.miou), f"float {fixed(best.reference.miou)}, teacher {fixed(best.teacher.miou)}"),
        Tile("INT8 against float", _change(drop.versus_float), "mIoU points"),
        Tile(
            "Speed-up",
            factor(best.speedup),
            f"{_from_to(milliseconds(fp32.latency.p50), milliseconds(int8.latency.p50), 'ms')}, median",
            wording.speed_marks(best),
        ),
        Tile(
            "Size reduction",
            factor(best.shrink),
            _from_to(megabytes(fp32.size_bytes), megabytes(int8.size_bytes), "MB"),
        ),
        Tile("Worst class", _change(drop.worst_class_drop), f"IoU points, {wording.worst_with_confidence(best)}"),
    ]
    if base is not None and base is not best and base.int8.miou is not None and int8.miou is not None:
        gain = signed(int8.miou - base.int8.miou)
        tiles.append(Tile("Distillation", gain, f"mIoU points over {base.label}, both INT8"))
    return tiles


def _change(drop: float | None) -> str:
    return NOT_MEASURED if drop is None else signed(-drop)


def _from_to(before: str, after: str, unit: str) -> str:
    return NOT_MEASURED if NOT_MEASURED in (before, after) else f"{before} \N{RIGHTWARDS ARROW} {after} {unit}"


def _distinct(values: Sequence[T]) -> list[T]:
    distinct: list[T] = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return distinct
