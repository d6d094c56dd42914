"""mIoU on val while the rows of a comparison train: a line per row, thin lines per seed.

Inline SVG, see :mod:`pipeline.reporting.svg`; mIoU is percent.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.reporting import svg
from pipeline.reporting.comparison import Comparison, Curve
from pipeline.reporting.svg import THEME

#: Least pixels between two names at the ends of the lines.
APART = 14.0


def mean(curves: Sequence[Curve]) -> tuple[list[int], list[float]]:
    """Steps that all curves have, and the mean mIoU at each of them.

    Example:
        >>> mean([Curve(steps=(100, 200), miou=(30.0, 40.0)), Curve(steps=(100, 200, 250), miou=(32.0, 44.0, 45.0))])
        ([100, 200], [31.0, 42.0])
    """
    tables = [dict(zip(curve.steps, curve.miou, strict=True)) for curve in curves]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    return steps, [statistics.fmean(table[step] for table in tables) for step in steps]


def lines(comparison: Comparison, *, name: str, width: int = 860) -> Markup | None:
    """The curves of all rows over the steps, or over the minutes where rows have the same minutes.

    The axis begins at the lowest mean after a quarter of the steps, so that the end can be read.

    Returns:
        the figure; None where no row has a curve.
    """
    rows = [(row, curves) for row in comparison.rows if (curves := [curve for curve in row.curves if curve])]
    if not rows:
        return None
    narrow = width < 500
    minutes = comparison.minutes is not None
    base = comparison.baseline
    with svg.canvas(width, 340, margins=(36, 86 if narrow else 150, 26, 44)) as (figure, axes):
        ends: list[tuple[float, float, str, str]] = []
        low, high = 100.0, 0.0
        for index, (row, curves) in enumerate(rows):
            colour = THEME["baseline"] if row == base else svg.series_colour(index)
            scale = (row.seconds_per_step or 0.0) / 60 if minutes else 1.0
            for curve in curves if len(curves) > 1 else ():
                axes.plot([step * scale for step in curve.steps], curve.miou, color=colour, linewidth=0.8, alpha=0.3)
            steps, values = mean(curves)
            if not steps:
                continue
            xs = [step * scale for step in steps]
            axes.plot(xs, values, color=colour, linewidth=1.8, marker="o", markersize=3)
            late = [value for step, value in zip(steps, values, strict=True) if step >= steps[-1] / 4]
            low, high = min(low, *late), max(high, *late, *(value for curve in curves for value in curve.miou))
            ends.append((xs[-1], values[-1], svg.shortened(row.name, 11 if narrow else 20), colour))
        axes.set_xlim(left=0)
        pad = max(0.06 * (high - low), 0.2)
        axes.set_ylim(low - pad, high + pad)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        axes.grid(axis="y", color=THEME["rule"], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0, pad=6)
        axes.set_xlabel("minutes of training" if minutes else "steps of training", labelpad=6)
        axes.text(0, 1.03, "mIoU on val, %", transform=axes.transAxes, color=THEME["muted"], va="bottom")
        _names(axes, ends)
        return svg.finish(figure, name=name, title="mIoU on val during training")


def spread_out(heights: Sequence[float], apart: float) -> list[float]:
    """Heights moved so that neighbours are at least ``apart`` from each other; their order and middle are kept.

    Example:
        >>> spread_out([10.0, 0.0, 11.0], 4.0)
        [8.5, 0.0, 12.5]
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    groups: list[tuple[float, list[int]]] = []  # middle, members from the lowest
    for index in order:
        group, middle = [index], heights[index]
        while (
            groups
            and groups[-1][0] + apart * (len(groups[-1][1]) - 1) / 2 + apart > middle - apart * (len(group) - 1) / 2
        ):
            _, before = groups.pop()
            group = before + group
            middle = sum(heights[member] for member in group) / len(group)
        groups.append((middle, group))
    placed = [0.0] * len(heights)
    for middle, group in groups:
        for place, index in enumerate(group):
            placed[index] = round(middle + apart * (place - (len(group) - 1) / 2), 6)
    return placed


def _names(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """The name of each line to the right of its end, joined with it by a thin line."""
    right = axes.get_xlim()[1]
    pixels = [float(axes.transData.transform((x, y))[1]) for x, y, _, _ in ends]
    heights = [float(axes.transData.inverted().transform((0, p))[1]) for p in spread_out(pixels, APART)]
    for (x, y, text, colour), height in zip(ends, heights, strict=True):
        axes.annotate(
            text,
            (x, y),
            (right, height),
            color=colour,
            size=10.5,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.6, "shrinkA": 1, "shrinkB": 3},
        )
