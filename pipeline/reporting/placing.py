"""Places labels beside their markers without overlap: each label gets the free place nearest to its point.

Greedy and deterministic: the caller places the most important labels first. All sizes are pixels of the figure.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels, y upwards

#: Directions from the marker in order of preference: (x, y) in -1, 0, 1.
_SIDES = ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
_GAP = 3.0
#: Extra pixels between marker and label, in order of preference.
_DISTANCES = (0.0, 10.0, 16.0, 22.0, 30.0, 40.0, 52.0, 64.0, 78.0, 94.0, 112.0, 136.0)
#: From this extra distance on, a line joins the two.
_FAR = 10.0
#: Cost of a place that is nearer to another marker than to its own, in covered square pixels.
_FOREIGN = 120.0


class Placer:
    """Places texts in ``axes``, whose limits must be final."""

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        canvas = axes.figure.canvas
        assert isinstance(canvas, FigureCanvasAgg)
        self._renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
        self._taken: list[Box] = []
        self.labels: list[Box] = []  # of the texts placed so far
        self._markers: list[tuple[float, float, float]] = []  # x, y, radius
        figure = axes.get_figure()
        assert figure is not None
        self._frame: Box = (2.0, axes.bbox.y0, figure.bbox.x1 - 2.0, figure.bbox.y1 - 2.0)

    def avoid_marker(self, x: float, y: float, radius: float) -> None:
        """Keep labels off a marker at data position (x, y) with ``radius`` in pixels."""
        px, py = self._pixel(x, y)
        self._markers.append((px, py, radius))
        self._taken.append((px - radius, py - radius, px + radius, py + radius))

    def avoid_segment(self, start: tuple[float, float], end: tuple[float, float], step: float = 6.0) -> None:
        """Keep labels off a straight line between two data positions."""
        (x0, y0), (x1, y1) = self._pixel(*start), self._pixel(*end)
        count = max(int(max(abs(x1 - x0), abs(y1 - y0)) / step), 1)
        for index in range(count + 1):
            x, y = x0 + (x1 - x0) * index / count, y0 + (y1 - y0) * index / count
            self._taken.append((x - 1.5, y - 1.5, x + 1.5, y + 1.5))

    def corner(self, y: float, text: str, **style: Any) -> None:
        """A label just above a horizontal line at data height ``y``, at the right end of the axes."""
        right = self._axes.bbox.x1
        height = self._pixel(0, y)[1]
        label = self._text((right, height + 3), text, ha="right", va="bottom", **style)
        self._keep(self._box(label))
        self._taken.append((self._axes.bbox.x0, height - 1, right, height + 1))

    def label(self, x: float, y: float, radius: float, text: str, **style: Any) -> None:
        """A label beside the marker at data position (x, y): the first free side, else the least covered.

        A thin line joins a label that is far from its marker.
        """
        px, py = self._pixel(x, y)
        choices: list[tuple[float, int, float, float, str, str, float]] = []
        for order, (extra, (sx, sy)) in enumerate(product(_DISTANCES, _SIDES)):
            reach = (radius + _GAP + extra) * (0.75 if sx and sy else 1.0)
            tx, ty = px + sx * reach, py + sy * reach
            ha = {1: "left", 0: "center", -1: "right"}[sx]
            va = {1: "bottom", 0: "center", -1: "top"}[sy]
            trial = self._text((tx, ty), text, ha=ha, va=va, **style)
            box = self._box(trial)
            trial.remove()
            cost = self._covered(box) + _FOREIGN * self._foreign(box, px, py, radius)
            if extra >= _FAR:
                cost += _FOREIGN * self._crossed((px, py), (tx, ty))
            choices.append((cost, order, tx, ty, ha, va, extra))
        _, _, tx, ty, ha, va, extra = min(choices)
        self._keep(self._box(self._text((tx, ty), text, ha=ha, va=va, **style)))
        if extra >= _FAR:
            share = (radius + 1) / math.hypot(tx - px, ty - py)
            start = (px + (tx - px) * share, py + (ty - py) * share)
            inverse = self._axes.transData.inverted()
            (x0, y0), (x1, y1) = inverse.transform(start), inverse.transform((tx, ty))
            self._axes.plot([x0, x1], [y0, y1], color=style["color"], linewidth=0.8, alpha=0.7, zorder=2.5)

    def _keep(self, box: Box) -> None:
        self._taken.append(box)
        self.labels.append(box)

    def _foreign(self, box: Box, x: float, y: float, radius: float) -> bool:
        """Whether a box is nearer to another marker than to the one at pixel (x, y)."""
        own = _distance(box, x, y) - radius
        others = (_distance(box, mx, my) - r for mx, my, r in self._markers if (mx, my) != (x, y))
        return any(other < own for other in others)

    def _crossed(self, start: tuple[float, float], end: tuple[float, float]) -> int:
        """How many labels a straight line between two pixels crosses."""
        points = [tuple(a + (b - a) * step / 20 for a, b in zip(start, end, strict=True)) for step in range(21)]
        return sum(any(_distance(box, x, y) == 0 for x, y in points) for box in self.labels)

    def _covered(self, box: Box) -> float:
        """Square pixels that a box covers; other texts and what lies outside the figure count twentyfold."""
        inside = _overlap(box, self._frame)
        outside = (box[2] - box[0]) * (box[3] - box[1]) - inside
        covered = sum(_overlap(box, other) for other in self._taken)
        texts = sum(_overlap(box, other) for other in self.labels)
        return round(covered + 20 * (texts + outside), 3)

    def _text(self, at: tuple[float, float], text: str, **style: Any) -> Any:
        return self._axes.text(*at, text, transform=None, clip_on=False, zorder=5, **style)

    def _box(self, text: Any) -> Box:
        extent = text.get_window_extent(self._renderer)
        return float(extent.x0), float(extent.y0), float(extent.x1), float(extent.y1)

    def _pixel(self, x: float, y: float) -> tuple[float, float]:
        px, py = self._axes.transData.transform((x, y))
        return float(px), float(py)


def _distance(box: Box, x: float, y: float) -> float:
    """From a point to the nearest point of a box, in pixels."""
    return math.hypot(max(box[0] - x, 0.0, x - box[2]), max(box[1] - y, 0.0, y - box[3]))


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0
