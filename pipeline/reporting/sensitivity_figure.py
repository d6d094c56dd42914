"""The figure of sensitive layers: the effect of quantising each layer alone on the labels.

Inline SVG, see :mod:`pipeline.reporting.svg`.
"""

from __future__ import annotations

from markupsafe import Markup

from pipeline.reporting import svg
from pipeline.reporting.measured import Result
from pipeline.reporting.svg import THEME
from pipeline.reporting.wording import fixed

ROW = 22
#: Layers that are shown, the most sensitive first.
SHOWN = 12
#: Characters shown of a layer's name; its end is more specific than its beginning.
LENGTH = 26


def bars(result: Result, *, name: str, width: int = 420) -> Markup | None:
    """One bar per layer: percent of the pixels whose label changes. None when nothing was measured."""
    quantization = result.quantization
    layers = [layer for layer in quantization.sensitivity if layer.disagreement is not None][:SHOWN]
    if not layers:
        return None
    height = ROW * len(layers) + 44
    with svg.canvas(width, height, margins=(176, 44, 6, 38)) as (figure, axes):
        values = [layer.disagreement or 0.0 for layer in layers]
        colours = [THEME["teacher" if layer.layer in quantization.in_float else "series-1"] for layer in layers]
        axes.barh(range(len(layers)), values, height=0.62, color=colours)
        axes.set_xlim(0, max(*values, 1e-3) * 1.04)
        axes.set_ylim(len(layers) - 0.5, -0.5)
        axes.set_yticks(range(len(layers)), [shortened(layer.layer) for layer in layers])
        axes.tick_params(length=0, pad=6)
        axes.tick_params(axis="y", labelcolor=THEME["ink"])
        axes.spines["left"].set_visible(False)
        for y, value in enumerate(values):
            axes.annotate(fixed(value, 2), (value, y), (5, 0), textcoords="offset points", va="center", size=10.5)
        axes.set_xlabel("pixels with another label, %", labelpad=6)
        title = f"Pixels that change when one layer of {result.label} is quantised alone"
        return svg.finish(figure, name=name, title=title)


def shortened(name: str) -> str:
    """The end of a layer's name.

    Example:
        >>> shortened("node_conv2d_3"), shortened("/net/encoder/layer1/0/conv1/Conv")
        ('node_conv2d_3', '…ncoder/layer1/0/conv1/Conv')
    """
    return name if len(name) <= LENGTH else f"\N{HORIZONTAL ELLIPSIS}{name[-LENGTH:]}"
