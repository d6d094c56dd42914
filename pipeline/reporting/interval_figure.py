"""One dot and one bar per class: a change of IoU and its interval. Inline SVG, see :mod:`pipeline.reporting.svg`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.reporting import svg
from pipeline.reporting.measured import Interval
from pipeline.reporting.svg import THEME
from pipeline.reporting.wording import signed

ROW = 24


@dataclass(frozen=True)
class Change:
    """Points of IoU that a class gains (positive) or loses, and the interval; None: no interval."""

    name: str
    points: float
    interval: Interval | None


def dots(changes: Sequence[Change], *, name: str, title: str, width: int = 420) -> Markup | None:
    """Green where the whole interval is a gain, red where it is a loss, else grey; hollow without an interval.

    Args:
        changes: in the order to show them.
        name: prefix of the ids in the figure.
        title: for screen readers.
        width: in CSS pixels.

    Returns:
        the figure; None without changes.
    """
    if not changes:
        return None
    height = ROW * len(changes) + 44
    with svg.canvas(width, height, margins=(108, 50, 6, 38)) as (figure, axes):
        axes.axvline(0, color=THEME["muted"], linewidth=1.0)
        for y, change in enumerate(changes):
            colour = THEME[_colour(change)]
            if change.interval is not None:
                axes.plot(change.interval, [y, y], color=colour, linewidth=2.0, solid_capstyle="butt", zorder=2)
            face = THEME["surface"] if change.interval is None else colour
            axes.scatter([change.points], [y], s=44, facecolor=face, edgecolor=colour, linewidth=1.3, zorder=3)
            at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "annotation_clip": False}
            style = {"color": THEME["ink" if _colour(change) != "muted" else "muted"], "size": 10.5, "va": "center"}
            axes.annotate(signed(change.points), (1.0, y), (6, 0), **at, **style)  # type: ignore[arg-type]
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -0.1), max(high, 0.1))
        axes.set_ylim(len(changes) - 0.5, -0.5)
        axes.set_yticks(range(len(changes)), [svg.shortened(change.name, 14) for change in changes])
        axes.tick_params(length=0, pad=6)
        axes.tick_params(axis="y", labelcolor=THEME["ink"])
        axes.grid(axis="x", color=THEME["rule"], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("change of IoU, points", labelpad=6)
        return svg.finish(figure, name=name, title=title)


def _colour(change: Change) -> str:
    low, high = change.interval or (0.0, 0.0)
    return "good" if low > 0 else "bad" if high < 0 else "muted"
