"""The two figures of the report: accuracy against latency, and IoU by class.

Both return inline SVG (see :mod:`pipeline.reporting.svg`); mIoU and IoU are percent, latency ms, marker area file size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.reporting import placing, svg
from pipeline.reporting.measured import Result
from pipeline.reporting.svg import THEME
from pipeline.reporting.wording import MINUS, NOT_MEASURED, fixed, marked

#: Area of the largest marker, in square pixels.
LARGEST = 620.0
SMALLEST = 40.0
#: Above this ratio of slowest to fastest the latency axis is logarithmic.
LOG_RATIO = 12.0


class _Point(NamedTuple):
    variant: str
    x: float
    y: float
    area: float


def colours(results: Sequence[Result]) -> dict[str, str]:
    """One placeholder colour per student label: grey for the baseline, the series colours for distilled students."""
    distilled = [result.label for result in results if result.loss != "none"]
    palette = {label: svg.series_colour(index) for index, label in enumerate(distilled)}
    return palette | {result.label: THEME["baseline"] for result in results if result.loss == "none"}


def accuracy_against_latency(results: Sequence[Result], *, width: int = 860, height: int = 430) -> Markup | None:
    """mIoU against median latency, a line through the variants of each student to INT8. None when nothing was timed."""
    largest = max((v.size_bytes or 0 for r in results for v in r.variants.values()), default=0)
    series = {result.label: _points(result, largest) for result in results}
    points = [point for line in series.values() for point in line]
    if not points:
        return None
    narrow = width < 500
    palette = colours(results)
    with svg.canvas(width, height, margins=(38, 14, 26, 44)) as (figure, axes):
        _frame(axes, points, [r.teacher.miou for r in results if r.teacher.miou is not None])
        placer = placing.Placer(axes)
        _teachers(axes, results, placer)
        for label, line in series.items():
            _line(axes, line, palette[label], placer)
        _labels(results, series, palette, placer)
        axes.set_xlabel("median latency, ms" if narrow else "median latency, ms  (further left is faster)", labelpad=6)
        axes.text(0, 1 + 10 / (height - 70), "mIoU, %", transform=axes.transAxes, color=THEME["muted"], va="bottom")
        name = "plane-narrow" if narrow else "plane"
        return svg.finish(figure, name=name, title="mIoU against median latency of every student and variant")


def _points(result: Result, largest: int) -> list[_Point]:
    return [
        _Point(name, v.latency.p50, v.miou, max(LARGEST * (v.size_bytes or 0) / largest, SMALLEST) if largest else 90.0)
        for name, v in result.variants.items()
        if v.miou is not None and v.latency.p50
    ]


def _radius(point: _Point) -> float:
    return math.sqrt(point.area / math.pi)


def _frame(axes: Axes, points: Sequence[_Point], teachers: Sequence[float]) -> None:
    xs, ys = [point.x for point in points], [point.y for point in points] + list(teachers)
    if max(xs) / min(xs) > LOG_RATIO:
        axes.set_xscale("log")
        axes.set_xlim(min(xs) / 1.6, max(xs) * 1.6)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    else:
        axes.set_xlim(0, max(xs) * 1.14)
    low, high = min(ys), max(ys)
    pad = max(0.14 * (high - low), 0.5)
    axes.set_ylim(low - 1.2 * pad, high + pad)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color=THEME["rule"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0, pad=6)


def _teachers(axes: Axes, results: Sequence[Result], placer: placing.Placer) -> None:
    for miou in sorted({round(result.teacher.miou, 1) for result in results if result.teacher.miou is not None}):
        axes.axhline(miou, color=THEME["teacher"], linewidth=1.3, linestyle=(0, (5, 4)))
        placer.corner(miou, f"teacher {fixed(miou)}", color=THEME["teacher"], size=11)


def _labels(
    results: Sequence[Result],
    series: Mapping[str, Sequence[_Point]],
    palette: Mapping[str, str],
    placer: placing.Placer,
) -> None:
    """Name the last point of every line first (the most important), then the other variants of the line."""
    for result in results:
        for point in series[result.label][-1:]:
            variant = "INT8" if point.variant == "int8" else point.variant
            text = marked(f"{result.label} {variant}", "unstable" if point.variant in result.unstable else "")
            style = {"color": palette[result.label], "weight": "bold", "size": 11.5}
            placer.label(point.x, point.y, _radius(point), text, **style)
    for result in results:
        for point in series[result.label][:-1]:
            text = marked(point.variant, "unstable" if point.variant in result.unstable else "")
            placer.label(point.x, point.y, _radius(point), text, color=palette[result.label], size=10)


def _line(axes: Axes, line: Sequence[_Point], colour: str, placer: placing.Placer) -> None:
    for start, end in itertools.pairwise(line):
        arrow = "-|>" if end.variant == "int8" else "-"
        style = {"arrowstyle": arrow, "color": colour, "linewidth": 1.3, "alpha": 0.55, "mutation_scale": 11}
        shrink = {"shrinkA": _radius(start) + 1, "shrinkB": _radius(end) + 1.5}
        axes.annotate("", xy=(end.x, end.y), xytext=(start.x, start.y), arrowprops=style | shrink)
        placer.avoid_segment((start.x, start.y), (end.x, end.y))
    for point in line:
        final = point.variant == "int8"
        axes.scatter(
            [point.x],
            [point.y],
            s=[point.area],
            facecolor=colour,
            alpha=0.95 if final else 0.28,
            edgecolor=THEME["surface"] if final else colour,
            linewidth=1.0,
            zorder=3,
        )
        placer.avoid_marker(point.x, point.y, _radius(point))


def class_bars(result: Result, *, name: str, colour: str, width: int = 330, row: int = 30) -> Markup | None:
    """IoU of each class: float and INT8 as bars, the teacher as a pale bar behind them; the worst INT8 drop in red.

    Returns None when neither teacher, float nor INT8 has per-class values.
    """
    series = (result.teacher.per_class_iou, result.reference.per_class_iou, result.int8.per_class_iou)
    if not result.classes or not any(series):
        return None
    teacher, before, after = (dict(zip(result.classes, values, strict=False)) for values in series)
    height = row * len(result.classes) + 30
    with svg.canvas(width, height, margins=(98, 80, 4, 26)) as (figure, axes):
        for y, label in enumerate(result.classes):
            _bar(axes, y, teacher.get(label), height=0.82, colour=THEME["teacher"], alpha=0.2)
            if (value := teacher.get(label)) is not None:
                axes.plot([value, value], [y - 0.41, y + 0.41], color=THEME["teacher"], linewidth=1.4)
            _bar(axes, y - 0.17, before.get(label), height=0.28, colour=colour, alpha=0.42)
            _bar(axes, y + 0.17, after.get(label), height=0.28, colour=colour, alpha=1.0)
            _class_text(axes, y, result, label, after)
        axes.set_xlim(0, 100)
        axes.set_ylim(len(result.classes) - 0.5, -0.5)
        axes.set_yticks(range(len(result.classes)), [_shortened(label) for label in result.classes])
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.grid(axis="x", color=THEME["rule"], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, pad=7)
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(False)
        for tick, label in zip(axes.get_yticklabels(), result.classes, strict=True):
            worst = label == result.drop.worst_class
            tick.set(color=THEME["bad"] if worst else THEME["ink"], fontweight="bold" if worst else "normal")
        return svg.finish(figure, name=name, title=f"IoU by class of student {result.label}: teacher, float, INT8")


def _bar(axes: Axes, y: float, value: float | None, *, height: float, colour: str, alpha: float) -> None:
    if value is not None:
        axes.barh(y, value, height=height, color=colour, alpha=alpha, linewidth=0)


def _class_text(axes: Axes, y: float, result: Result, label: str, after: Mapping[str, float | None]) -> None:
    worst = label == result.drop.worst_class and (result.drop.worst_class_drop or 0) > 0
    if label not in after:
        text, colour = NOT_MEASURED, THEME["muted"]
    elif after[label] is None:
        text, colour = "absent", THEME["muted"]
    elif worst:
        text, colour = f"{fixed(after[label])}  ({MINUS}{fixed(result.drop.worst_class_drop)})", THEME["bad"]
    else:
        text, colour = fixed(after[label]), THEME["muted"]
    weight = "bold" if worst else "normal"
    axes.text(103, y, text, va="center", ha="left", color=colour, fontweight=weight, fontsize=10.5, clip_on=False)


def _shortened(label: str, limit: int = 14) -> str:
    return label if len(label) <= limit else label[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"
