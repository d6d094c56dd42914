"""The figure of compared losses: mean and spread of each, its single runs, and the student alone as a line.

Inline SVG, see :mod:`pipeline.reporting.svg`; mIoU is percent.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from pipeline.reporting import gains, svg
from pipeline.reporting.comparison import Comparison, Figures, Row
from pipeline.reporting.intervals import Difference
from pipeline.reporting.svg import THEME
from pipeline.reporting.wording import fixed, signed

ROW = 38
#: Single runs are drawn this share of a row below the mean, so that they do not hide it.
BELOW = 0.24


def dots(comparison: Comparison, *, name: str = "losses", width: int = 860) -> Markup | None:
    """One line per row: mean (large dot) ± standard deviation (bar), seeds (small dots), gain. None without rows.

    Args:
        comparison: a gain that is significant is bold, one within the spread of the seeds is grey.
        name: prefix of the ids in the figure.
        width: in CSS pixels.
    """
    rows = [(row, figures) for row in comparison.rows if (figures := row.of(comparison.weights)).mean is not None]
    if not rows:
        return None
    narrow = width < 500
    height = ROW * len(rows) + 62
    with svg.canvas(width, height, margins=(84 if narrow else 150, 92, 22, 40)) as (figure, axes):
        _frame(axes, rows, narrow=narrow)
        base = next((line for line in rows if line[0] == comparison.baseline), None)
        if base is not None and (mean := base[1].mean) is not None:
            axes.axvline(mean, color=THEME["baseline"], linewidth=1.3, linestyle=(0, (5, 4)))
            top: dict[str, Any] = {"color": THEME["muted"], "size": 10.5, "ha": "center", "va": "bottom"}
            axes.annotate(f"{base[0].name} {fixed(mean)}", (mean, -0.5), (0, 3), textcoords="offset points", **top)
        for y, (row, figures) in enumerate(rows):
            _line(axes, y, figures, colour=THEME["baseline" if row == comparison.baseline else "series-1"])
            _gain(axes, y, figures, gains.of_miou(row, comparison))
        axes.set_xlabel("mIoU, %", labelpad=6)
        return svg.finish(figure, name=name, title="mIoU of the student in every row: mean, spread and single runs")


def _frame(axes: Axes, rows: list[tuple[Row, Figures]], *, narrow: bool) -> None:
    values = [value for _, figures in rows for value in _extent(figures)]
    pad = max(0.06 * (max(values) - min(values)), 0.2)
    axes.set_xlim(min(values) - pad, max(values) + pad)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [svg.shortened(row.name, 11 if narrow else 20) for row, _ in rows])
    axes.tick_params(length=0, pad=7)
    axes.tick_params(axis="y", labelcolor=THEME["ink"])
    axes.grid(axis="x", color=THEME["rule"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def _extent(figures: Figures) -> list[float]:
    mean, std = figures.mean or 0.0, figures.std or 0.0
    return [mean - std, mean + std, *(value for value in figures.miou if value is not None)]


def _line(axes: Axes, y: int, figures: Figures, *, colour: str) -> None:
    seeds = [value for value in figures.miou if value is not None]
    axes.scatter(seeds, [y + BELOW] * len(seeds), s=16, facecolor=colour, alpha=0.5, linewidth=0, zorder=3)
    assert figures.mean is not None
    if figures.std is not None:
        axes.errorbar([figures.mean], [y], xerr=[figures.std], color=colour, linewidth=1.6, capsize=4, zorder=3)
    axes.scatter([figures.mean], [y], s=70, facecolor=colour, edgecolor=THEME["surface"], linewidth=1.0, zorder=4)


def _gain(axes: Axes, y: int, figures: Figures, gain: Difference | None) -> None:
    """The gain and its standard error on the right of the axes."""
    if figures.gain is None:
        return
    error = "" if figures.gain_error is None else f" ± {fixed(figures.gain_error)}"
    significant = gain is not None and gain.verdict == "significant"
    style: dict[str, Any] = {
        "color": THEME["ink" if significant else "muted"],
        "size": 11,
        "ha": "left",
        "va": "center",
    }
    style |= {"weight": "bold"} if significant else {}
    at: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "annotation_clip": False,
    }
    axes.annotate(f"{signed(figures.gain)}{error}", (1.0, y), (8, 0), **at, **style)
