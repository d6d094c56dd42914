"""IoU by class as bars, and the colours of students. Inline SVG, see :mod:`pipeline.reporting.svg`; IoU is percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from pipeline.reporting import svg
from pipeline.reporting.measured import Result
from pipeline.reporting.svg import THEME
from pipeline.reporting.wording import MINUS, NOT_MEASURED, fixed


def colours(results: Sequence[Result]) -> dict[str, str]:
    """One placeholder colour per student label: grey for baseline and teacher, the series colours for the others."""
    grey = {
        r.label: THEME["teacher" if r.is_teacher else "baseline"] for r in results if r.is_teacher or r.loss == "none"
    }
    distilled = [result.label for result in results if result.label not in grey]
    return {label: svg.series_colour(index) for index, label in enumerate(distilled)} | grey


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
        axes.set_yticks(range(len(result.classes)), [svg.shortened(label, 14) for label in result.classes])
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
