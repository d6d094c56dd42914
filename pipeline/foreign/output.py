"""What the output of a foreign network holds: logits of classes, one channel for two classes, or a map of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from pipeline.errors import UserError
from pipeline.export.confidence import Scores
from pipeline.foreign import reading
from pipeline.foreign.description import Description
from pipeline.foreign.floats import MOVES

#: Operators behind a sigmoid that keep probabilities what they are.
KEEPS = (*MOVES, "Resize", "Cast")
SIGMOIDS = ("Sigmoid", "HardSigmoid")
#: Classes that one channel tells apart.
BINARY = 2
#: Where probabilities and raw scores of the second class say that it is there.
PROBABILITY, RAW = 0.5, 0.0
#: How far below 0 or above 1 a probability may be.
ROUNDING = 1e-3


@dataclass(frozen=True)
class Form:
    """How to read an output.

    Attributes:
        channels: of logits; 1: above a threshold is the second class; 0: the output is a map of class ids.
        size: (height, width).
        last: whether channels are the last axis.
    """

    channels: int
    size: tuple[int, int]
    last: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the deploy graph: (1, K, h, w), or (1, h, w) for ids."""
        return (1, self.channels, *self.size) if self.channels else (1, *self.size)

    @property
    def as_given(self) -> tuple[int, ...]:
        """The same with four axes in the order of the file."""
        return (1, *self.size, self.channels) if self.last else self.shape

    def planes(self, result: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The output for one frame as (K, h, w), or (h, w) for ids."""
        given = result.reshape(self.as_given)[0]
        return np.ascontiguousarray(given.transpose(2, 0, 1) if self.last else given)


def form(shape: Sequence[int], dtype: np.dtype[Any], description: Description, *, image: tuple[int, int]) -> Form:
    """How to read an output of this shape and type, by the description.

    A batch axis of 1 may be there or not. Where ``output_layout`` is not said, channels are where there is one for each
    class, and where the image has them if both would do.

    Args:
        image: (height, width) of the network's input.

    Raises:
        UserError: it is neither logits nor a map, or not one channel a class, or of another shape than the image.
    """
    where = f"{description.model}: output{f' {description.head!r}' if description.head else ''}"
    what = f"{where} is {dtype.name} {'x'.join(map(str, shape)) or 'one number'}"
    names = description.labels.names
    if description.output == "labels":
        sides = [side for side in shape if side != 1]
        if len(sides) != BINARY or dtype.kind not in "biuf":
            raise UserError(f"{what}; a label map is one id for each pixel; for a channel a class say `output: logits`")
        found = Form(0, (sides[0], sides[1]))
        if not _like(found.size, image):
            raise UserError(f"{what}; {_shapeless(image)}; {reading.AGAIN} as a map of the image's rows and columns")
        return found
    trimmed = list(shape)
    while len(trimmed) > 3 and trimmed[0] == 1:
        del trimmed[0]
    trimmed = [1, *trimmed] if len(trimmed) == 2 else trimmed
    if len(trimmed) != 3 or not (dtype.kind == "f" or (dtype.kind in "iu" and description.threshold is not None)):
        hint = "for a map of class ids say `output: labels`"
        raise UserError(f"{what}; logits are floats, a channel for each class and pixel; {hint}")
    layouts = [description.layout, *({"NCHW", "NHWC"} - {description.layout})]
    layouts = [description.output_layout] if description.output_layout else layouts
    forms = [
        Form(trimmed[2], (trimmed[0], trimmed[1]), last=True)
        if layout == "NHWC"
        else Form(trimmed[0], (trimmed[1], trimmed[2]))
        for layout in layouts
    ]
    alike = [found for found in forms if _like(found.size, image)]
    if not alike:
        raise UserError(
            f"{what}; {_shapeless(image)}; correct `output_layout`, or {reading.AGAIN} without what reshapes its output"
        )
    for found in alike:
        if found.channels == len(names) and description.threshold is not None:
            raise UserError(f"{what}: a channel for each class, of which the highest counts; leave `threshold` out")
        if found.channels == len(names) or (found.channels == 1 and len(names) == BINARY):
            return found
    channels = alike[0].channels
    listed = f"the description names {len(names)} classes ({', '.join(names)})"
    if channels == 1:
        raise UserError(f"{what}: one channel, which tells two classes apart, and {listed}; name two")
    raise UserError(
        f"{what}: {channels} channels (layout {'NHWC' if alike[0].last else 'NCHW'}), and {listed}; name one class for "
        "each channel, in their order"
    )


def _like(size: tuple[int, int], image: tuple[int, int]) -> bool:
    """Whether a map has the image's aspect, up to one row or column of rounding."""
    return abs(size[0] * image[1] - size[1] * image[0]) <= sum(image)


def _shapeless(image: tuple[int, int]) -> str:
    return f"its height and width do not have the aspect of the image, {image[0]}x{image[1]}"


def gives_probabilities(model: onnx.ModelProto) -> bool:
    """Whether the output comes out of a sigmoid, as far as the graph tells."""
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(model.graph.output[0].name)
    while node is not None and node.op_type in KEEPS:
        node = producers.get(node.input[0])
    return node is not None and node.op_type in SIGMOIDS


def scores(values: tuple[float, float], form: Form, description: Description) -> Scores:
    """What the confidence is computed from, by the range of values on frames.

    Args:
        values: lowest and highest.

    Raises:
        UserError: one channel whose values look like neither probabilities nor logits.
    """
    low, high = values
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return "probabilities"
    if low < 0 or form.channels > 1:
        return "logits"
    raise UserError(
        f"{description.model}: the one channel of the output has values from {low:.4g} to {high:.4g} on the frames: "
        "neither probabilities (0 to 1) nor scores around 0, so they say nothing about confidence; export the network "
        f"with one of these, or leave `confidence` out of {description.file}"
    )


def threshold(values: tuple[float, float], description: Description) -> float:
    """Above which value of the one channel the second class is, by the range of values on frames.

    Args:
        values: lowest and highest.

    Raises:
        UserError: they look like neither probabilities nor raw scores.
    """
    low, high = values
    if low >= 0 and high <= 1:
        return PROBABILITY
    if low < 0:
        return RAW
    raise UserError(
        f"{description.model}: the one channel of the output has values from {low:.4g} to {high:.4g} on the frames: "
        f"neither probabilities (0 to 1) nor scores around 0; say in {description.file} above which value it means "
        f"'{description.labels.names[1]}': `threshold: ...`"
    )
