"""mIoU against latency and against file size: all variants of all students, their Pareto front, and the teacher.

Inline SVG, see :mod:`pipeline.reporting.svg`; mIoU is percent, latency ms, size MB of 10^6 bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pipeline.reporting import figures, pareto, placing, svg
from pipeline.reporting.measured import Result, Variant
from pipeline.reporting.svg import THEME
from pipeline.reporting.wording import fixed, marked

Cost = Literal["latency", "size"]
#: Area of the largest marker, in square pixels.
LARGEST = 620.0
SMALLEST = 40.0
#: Area of all markers where the position shows the size, or no size is known.
EQUAL = 90.0
#: Above this ratio of highest to lowest cost the axis is logarithmic.
LOG_RATIO = 6.0
#: Up to this number of students the variants before INT8 are named too.
NAMED = 3
#: Title of the axis, and what its left end means.
TITLES = {"latency": ("median latency, ms", "faster"), "size": ("file size, MB", "smaller")}


class _Point(NamedTuple):
    variant: str
    x: float
    y: float
    area: float
    std: float | None


def plane(
    results: Sequence[Result],
    cost: Cost,
    *,
    spreads: Mapping[str, Mapping[str, float]],
    width: int = 860,
    height: int = 460,
) -> Markup | None:
    """mIoU against a cost, a line through the variants of each student to INT8. None when nothing was measured.

    Args:
        results: in the order of their colours.
        cost: latency, where the area of a marker is the file size; or the file size.
        spreads: standard deviation of mIoU by student label and variant, drawn as an error bar at the last variant that
            has one.
        width, height: in CSS pixels.
    """
    largest = max((v.size_bytes or 0 for r in results for v in r.variants.values()), default=0)
    series = {result.label: _points(result, cost, largest, spreads.get(result.label, {})) for result in results}
    points = [point for line in series.values() for point in line]
    if not points:
        return None
    narrow = width < 500
    palette = figures.colours(results)
    with svg.canvas(width, height, margins=(38, 14, 26, 44)) as (figure, axes):
        _frame(axes, points, [r.teacher.miou for r in results if r.teacher.miou is not None])
        placer = placing.Placer(axes)
        _teachers(axes, results, placer)
        if has_front(results, cost):
            _front(axes, points, placer)
        for label, line in series.items():
            _line(axes, line, palette[label], placer, faint=len(results) > NAMED)
        _labels(results, series, palette, placer, size=10.5 if narrow else 11.5)
        title, less = TITLES[cost]
        axes.set_xlabel(title if narrow else f"{title}  (further left is {less})", labelpad=6)
        axes.text(0, 1 + 10 / (height - 70), "mIoU, %", transform=axes.transAxes, color=THEME["muted"], va="bottom")
        text = f"mIoU against {title.split(',')[0]} of every student and variant"
        return svg.finish(figure, name=f"plane-{cost}{'-narrow' if narrow else ''}", title=text)


def has_front(results: Sequence[Result], cost: Cost) -> bool:
    """Whether the costs of all results can be compared: latencies of one device, or sizes."""
    return cost == "size" or len({result.device.get("id") for result in results if result.variants}) == 1


def _cost(variant: Variant, cost: Cost) -> float | None:
    if cost == "latency":
        return variant.latency.p50
    return None if variant.size_bytes is None else variant.size_bytes / 1e6


def _points(result: Result, cost: Cost, largest: int, spreads: Mapping[str, float]) -> list[_Point]:
    found = []
    for name, variant in result.variants.items():
        if variant.miou is not None and (x := _cost(variant, cost)):
            by_size = cost == "latency" and largest > 0
            area = max(LARGEST * (variant.size_bytes or 0) / largest, SMALLEST) if by_size else EQUAL
            found.append(_Point(name, x, variant.miou, area, spreads.get(name)))
    barred = max((index for index, point in enumerate(found) if point.std is not None), default=-1)
    return [point if index == barred else point._replace(std=None) for index, point in enumerate(found)]


def _radius(point: _Point) -> float:
    return math.sqrt(point.area / math.pi)


def _frame(axes: Axes, points: Sequence[_Point], teachers: Sequence[float]) -> None:
    xs = [point.x for point in points]
    ys = [point.y + sign * (point.std or 0.0) for point in points for sign in (-1, 1)] + list(teachers)
    if max(xs) / min(xs) > LOG_RATIO:
        axes.set_xscale("log")
        axes.set_xlim(min(xs) / 1.6, max(xs) * 1.6)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
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


def _front(axes: Axes, points: Sequence[_Point], placer: placing.Placer) -> None:
    """The front as stairs: the best mIoU for at most this cost."""
    front = pareto.front([(point.x, point.y) for point in points])
    xs, ys = zip(*front, (axes.get_xlim()[1], front[-1][1]), strict=True)
    axes.plot(xs, ys, color=THEME["ink"], linewidth=1.2, alpha=0.45, drawstyle="steps-post", zorder=1.5, gid="front")
    for (x0, y0), (x1, y1) in itertools.pairwise(zip(xs, ys, strict=True)):
        placer.avoid_segment((x0, y0), (x1, y0))
        placer.avoid_segment((x1, y0), (x1, y1))


def _labels(
    results: Sequence[Result],
    series: Mapping[str, Sequence[_Point]],
    palette: Mapping[str, str],
    placer: placing.Placer,
    *,
    size: float,
) -> None:
    """Name the last point of every line first (the most important), then the other variants of few students."""
    many = len(results) > NAMED
    for result in results:
        for point in series[result.label][-1:]:
            variant = "INT8" if point.variant == "int8" else point.variant
            name = result.label if many and point.variant == "int8" else f"{result.label} {variant}"
            text = marked(name, "unstable" if point.variant in result.unstable else "")
            style = {"color": palette[result.label], "weight": "bold", "size": size}
            placer.label(point.x, point.y, _radius(point), text, **style)
    for result in results if not many else ():
        for point in series[result.label][:-1]:
            text = marked(point.variant, "unstable" if point.variant in result.unstable else "")
            placer.label(point.x, point.y, _radius(point), text, color=palette[result.label], size=10)


def _line(axes: Axes, line: Sequence[_Point], colour: str, placer: placing.Placer, *, faint: bool) -> None:
    for start, end in itertools.pairwise(line):
        arrow = "-|>" if end.variant == "int8" else "-"
        style = {
            "arrowstyle": arrow,
            "color": colour,
            "linewidth": 1.3,
            "alpha": 0.3 if faint else 0.55,
            "mutation_scale": 11,
        }
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
            alpha=0.95 if final else 0.16 if faint else 0.28,
            edgecolor=THEME["surface"] if final else colour,
            linewidth=1.0,
            zorder=3,
        )
        placer.avoid_marker(point.x, point.y, _radius(point))
        if point.std is not None:
            axes.errorbar([point.x], [point.y], yerr=[point.std], color=colour, linewidth=1.4, capsize=4, zorder=2.8)
            placer.avoid_segment((point.x, point.y - point.std), (point.x, point.y + point.std))
