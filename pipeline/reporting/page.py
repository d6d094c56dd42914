"""The report: one self-contained HTML page with the gains and losses of INT8.

The page holds no date, host or path, so that equal results give equal bytes. The layout is in ``report.html.j2`` and
its parts; this module collects the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import TypeVar

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.prepared import Prepared
from pipeline.reporting import (
    card,
    class_losses,
    compared,
    differing,
    figures,
    interval_figure,
    planes,
    rare,
    samples,
    sensitivity_figure,
    spreads,
    table,
    tiles,
    wording,
)
from pipeline.reporting.class_losses import Row
from pipeline.reporting.compared import Figure
from pipeline.reporting.comparison import Comparison
from pipeline.reporting.differing import Differing
from pipeline.reporting.interval_figure import Change
from pipeline.reporting.intervals import CONFIDENCE
from pipeline.reporting.measured import SIZES, Result
from pipeline.reporting.samples import Strip
from pipeline.reporting.svg import THEME
from pipeline.reporting.wording import NOT_MEASURED, fixed, megabytes, milliseconds, signed

T = TypeVar("T")

#: The layout and its parts, by name, so that DVC knows that the report depends on them.
TEMPLATES = (
    "report.html.j2",
    "report.css.j2",
    "report_macros.html.j2",
    "report_students.html.j2",
    "report_accuracy.html.j2",
    "report_classes.html.j2",
    "report_compared.html.j2",
    "report_frames.html.j2",
)

LATENCY_SCOPE = "uint8 frame in host memory \N{RIGHTWARDS ARROW} label map in host memory, resize not included"


@dataclass(frozen=True)
class Student:
    """One student as the page shows it."""

    result: Result
    colour: str
    summary: str
    notes: Sequence[str]
    classes: Sequence[Row]
    changes: Markup | None
    bars: Markup | None
    layers: Markup | None
    strips: Sequence[Strip]


def build(
    results: Sequence[Result],
    *,
    dataset: Path,
    predictions: Path,
    comparisons: Sequence[Comparison] = (),
    frames: bool = True,
) -> str:
    """The page for ``results``, with sample frames and rare classes from disk.

    Args:
        results: from :func:`pipeline.reporting.results.load`.
        dataset: prepared data set.
        predictions: folder with one ``predictions`` artifact per student; a missing one is shown as not measured.
        comparisons: shown only if they are of the data of these results.
        frames: False for a page without pictures of the data, which may be published where the data may not.

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
    kept = {result.label: samples.kept(prepared, predictions / result.student) for result in results if frames}
    return render(
        results,
        labels=prepared.labels,
        shares=shares,
        strips={label: samples.strips(each, prepared.labels) for label, each in kept.items()},
        differ=differing.most(kept, prepared.labels),
        comparisons=comparisons,
        frames=frames,
    )


def render(
    results: Sequence[Result],
    *,
    labels: LabelSpec,
    shares: Mapping[str, float],
    strips: Mapping[str, Sequence[Strip]],
    differ: Differing | None = None,
    comparisons: Sequence[Comparison] = (),
    frames: bool = True,
) -> str:
    """The page from values alone.

    Args:
        results: in the order to show them.
        labels: class names and colours for the legend.
        shares: share of each class in the labelled pixels, 0..1.
        strips: sample strips by student label.
        differ: frames on which students differ; None: no such section.
        comparisons: of losses or params.
        frames: False: the page says that it shows no pictures of the data.
    """
    best = wording.best(results)
    students = _students(results, strips)
    bars = {result.label: spread for result in results if (spread := spreads.of(result, comparisons))}
    return _environment().get_template(TEMPLATES[0]).render(
        best=best,
        best_summary=wording.summary(best) if best else "",
        tiles=tiles.of(best, wording.baseline(results, best)) if best else [],
        students=students,
        sampled=sorted(students, key=lambda student: student.result is not best),
        latency_plane=_plane(results, "latency", bars),
        size_plane=_plane(results, "size", bars),
        has_front=planes.has_front(results, "latency"),
        all_named=len(results) <= planes.NAMED,
        has_bars=bool(bars),
        columns=table.COLUMNS,
        verdict_column=table.VERDICT,
        results=results,
        rare=rare.rare(shares),
        sizes=SIZES,
        sections=compared.sections(comparisons, results),
        with_frames=frames,
        differ=differ,
        labels=labels,
        cards=[card.block(result) for result in results],
        devices=_distinct([result.device for result in results if result.device]),
        teachers=_distinct([result.teacher for result in results if result.teacher.model]),
        sources=_distinct([_source(result) for result in results if result.dataset or result.split]),
        measured_on=_measured_on(results),
        latency_scope=LATENCY_SCOPE,
        not_measured=NOT_MEASURED,
        t_confidence=CONFIDENCE,
        version=metadata.version("segpress"),
    )  # fmt: skip


def _environment() -> Environment:
    folder = resources.files(__package__)
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=DictLoader({name: folder.joinpath(name).read_text("utf-8") for name in TEMPLATES}),
    )
    environment.globals.update(fixed=fixed, signed=signed, ms=milliseconds, mb=megabytes, count=wording.count)
    environment.globals.update(interval=wording.interval, confidence=wording.confidence)
    environment.globals.update(not_measured=NOT_MEASURED)
    environment.filters["hex"] = lambda colour: "#{:02x}{:02x}{:02x}".format(*colour)
    return environment


@dataclass(frozen=True)
class Source:
    """The data that results were measured on."""

    dataset: str
    sha256: str
    split: str
    images: int | None
    input_size: tuple[int, ...]
    absent: tuple[str, ...]


def _source(result: Result) -> Source:
    return Source(
        result.dataset, result.dataset_sha256, result.split, result.images, result.input_size, result.absent_classes
    )


def _measured_on(results: Sequence[Result]) -> str:
    """``split val``: the splits of all results, for the captions of tables and figures."""
    splits = _distinct([result.split for result in results if result.split])
    return f"split{'s' if len(splits) > 1 else ''} {' and '.join(splits)}" if splits else f"split {NOT_MEASURED}"


def _plane(results: Sequence[Result], cost: planes.Cost, bars: Mapping[str, Mapping[str, float]]) -> Figure:
    return Figure(
        planes.plane(results, cost, spreads=bars),
        planes.plane(results, cost, spreads=bars, width=380, height=400),
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
            changes=_int8_changes(result, name=f"changes-{index}"),
            bars=figures.class_bars(result, name=f"bars-{index}", colour=palette[result.label]),
            layers=sensitivity_figure.bars(result, name=f"layers-{index}"),
            strips=strips.get(result.label, ()),
        )
        for index, result in enumerate(results)
    ]


def _int8_changes(result: Result, *, name: str) -> Markup | None:
    """What INT8 changes in each class, with intervals; None without intervals."""
    changes = [
        Change(row.name, -row.lost, (-row.interval[1], -row.interval[0]))
        for row in class_losses.rows(result)
        if row.interval is not None
    ]
    return interval_figure.dots(
        changes, name=name, title=f"Change of IoU of each class from float to INT8, {result.label}"
    )


def _distinct(values: Sequence[T]) -> list[T]:
    distinct: list[T] = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return distinct
