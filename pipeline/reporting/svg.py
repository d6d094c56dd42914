"""Matplotlib figures as inline SVG with reproducible bytes, text as text, and colours of the page's theme.

Figures are drawn in placeholder colours; :func:`finish` replaces each by a CSS variable of the page, so that one SVG
serves the light and the dark theme. Sizes are CSS pixels (72 dpi, so that a point is a pixel).
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: CSS variable of the page -> its placeholder colour during drawing.
THEME = {
    "ink": "#010a01",
    "muted": "#010a02",
    "rule": "#010a03",
    "surface": "#010a04",
    "bad": "#010a05",
    "teacher": "#010a06",
    "baseline": "#010a07",
    "series-1": "#010a08",
    "series-2": "#010a09",
    "series-3": "#010a0a",
    "series-4": "#010a0b",
    "series-5": "#010a0c",
    "series-6": "#010a0d",
    "series-7": "#010a0e",
    "series-8": "#010a0f",
    "series-9": "#010a10",
    "series-10": "#010a11",
    "good": "#010a12",
}
SERIES = sum(name.startswith("series-") for name in THEME)

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "segpress",
    "font.family": "DejaVu Sans",  # shipped with matplotlib, so text is measured alike everywhere
    "font.size": 11.0,
    "text.parse_math": False,
    "text.color": THEME["ink"],
    "axes.edgecolor": THEME["rule"],
    "axes.labelcolor": THEME["muted"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": THEME["rule"],
    "ytick.color": THEME["rule"],
    "xtick.labelcolor": THEME["muted"],
    "ytick.labelcolor": THEME["muted"],
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "figure.facecolor": "none",
    "path.simplify": False,
}


def series_colour(index: int) -> str:
    """Placeholder for the colour of the ``index``-th distilled student; colours repeat after ten."""
    return THEME[f"series-{index % SERIES + 1}"]


@contextmanager
def canvas(width: float, height: float, *, margins: tuple[float, float, float, float]) -> Iterator[tuple[Figure, Axes]]:
    """A figure of ``width`` x ``height`` CSS pixels with one axes inside ``margins`` (left, right, top, bottom)."""
    left, right, top, bottom = margins
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasAgg(figure)
        box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
        yield figure, figure.add_axes(box)


def finish(figure: Figure, *, name: str, title: str) -> Markup:
    """The figure as an ``<svg>`` element for the page. Call it inside the :func:`canvas` block.

    Args:
        figure: the finished drawing.
        name: prefix of every id in the figure, so that ids in a page with several figures stay unique.
        title: text for screen readers.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(<[^<>]*?\sid=")', rf"\g<1>{name}-", text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", text)
    for variable, placeholder in THEME.items():
        text = text.replace(placeholder, f"var(--{variable})")
    text = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
    return Markup("\n".join(line.strip() for line in text.splitlines() if line.strip()))  # noqa: S704 - matplotlib escapes every text, title is escaped above


def shortened(text: str, length: int) -> str:
    """A text of at most ``length`` characters; a longer one ends with an ellipsis.

    Example:
        >>> shortened("pedestrian", 6)
        'pedes…'
    """
    return text if len(text) <= length else f"{text[: length - 1]}\N{HORIZONTAL ELLIPSIS}"
