"""The output of an imported network: logits of classes, one channel for two classes, or a map of class ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from pipeline.errors import UserError
from pipeline.export.confidence import Scores
from pipeline.imported import reading
from pipeline.imported.description import Description
from pipeline.imported.floats import MOVES

#: Operators after which probabilities are still probabilities.
KEEPS = (*MOVES, "Resize", "Cast")
SIGMOIDS = ("Sigmoid", "HardSigmoid")
#: Number of classes that one channel can separate.
BINARY = 2
#: Thresholds of the second class, for probabilities and for raw scores.
PROBABILITY, RAW = 0.5, 0.0
#: Rounding error of probabilities: how far they may be below 0 or above 1.
ROUNDING = 1e-3


@dataclass(frozen=True)
class Form:
    """How to read an output.

    Attributes:
        channels: of logits; 1: values above a threshold mean the second class; 0: the output is a map of class ids.
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
    def file_shape(self) -> tuple[int, ...]:
        """The same shape with the axes in the order of the file."""
        return (1, *self.size, self.channels) if self.last else self.shape

    def planes(self, result: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The output for one frame as (K, h, w), or (h, w) for ids."""
        planes = result.reshape(self.file_shape)[0]
        return np.ascontiguousarray(planes.transpose(2, 0, 1) if self.last else planes)


def form(shape: Sequence[int], dtype: np.dtype[Any], description: Description, *, image: tuple[int, int]) -> Form:
    """How to read an output of this shape and type, according to the description.

    A batch axis of 1 is optional. Without ``output_layout``, the axis with one channel per class holds the channels; if
    two axes have that length, the output has the layout of the image.

    Args:
        image: (height, width) of the network's input.

    Raises:
        UserError: the output is neither logits nor a map, has not one channel per class, or has another aspect ratio
            than the image.
    """
    where = f"{description.model}: output{f' {description.head!r}' if description.head else ''}"
    got = f"{where} is {dtype.name} {'x'.join(map(str, shape)) or 'one number'}"
    names = description.labels.names
    if description.output == "labels":
        sides = [side for side in shape if side != 1]
        if len(sides) != BINARY or dtype.kind not in "biuf":
            raise UserError(
                f"{got}; a label map has one id per pixel; for one channel per class write `output: logits`"
            )
        label_map = Form(0, (sides[0], sides[1]))
        if not _has_aspect(label_map.size, image):
            raise UserError(
                f"{got}; {_other_aspect(image)}; {reading.AGAIN} with a map of the image's rows and columns"
            )
        return label_map
    trimmed = list(shape)
    while len(trimmed) > 3 and trimmed[0] == 1:
        del trimmed[0]
    trimmed = [1, *trimmed] if len(trimmed) == 2 else trimmed
    if len(trimmed) != 3 or not (dtype.kind == "f" or (dtype.kind in "iu" and description.threshold is not None)):
        hint = "for a map of class ids write `output: labels`"
        raise UserError(f"{got}; logits are floats, with one channel per class; {hint}")
    layouts = [description.layout, *({"NCHW", "NHWC"} - {description.layout})]
    layouts = [description.output_layout] if description.output_layout else layouts
    forms = [
        Form(trimmed[2], (trimmed[0], trimmed[1]), last=True)
        if layout == "NHWC"
        else Form(trimmed[0], (trimmed[1], trimmed[2]))
        for layout in layouts
    ]
    candidates = [each for each in forms if _has_aspect(each.size, image)]
    if not candidates:
        raise UserError(
            f"{got}; {_other_aspect(image)}; correct `output_layout`, or {reading.AGAIN} without reshaping its output"
        )
    for candidate in candidates:
        if candidate.channels == len(names) and description.threshold is not None:
            raise UserError(f"{got}: one channel per class, where the largest value wins; leave `threshold` out")
        if candidate.channels == len(names) or (candidate.channels == 1 and len(names) == BINARY):
            return candidate
    channels = candidates[0].channels
    listed = f"the description names {len(names)} classes ({', '.join(names)})"
    if channels == 1:
        raise UserError(f"{got}: one channel, which separates two classes, but {listed}; name two")
    raise UserError(
        f"{got}: {channels} channels (layout {'NHWC' if candidates[0].last else 'NCHW'}), but {listed}; name one class "
        "per channel, in the order of the channels"
    )


def _has_aspect(size: tuple[int, int], image: tuple[int, int]) -> bool:
    """Whether a map has the image's aspect ratio, up to one row or column of rounding."""
    return abs(size[0] * image[1] - size[1] * image[0]) <= sum(image)


def _other_aspect(image: tuple[int, int]) -> str:
    return f"its height and width do not have the aspect ratio of the image, {image[0]}x{image[1]}"


def gives_probabilities(model: onnx.ModelProto) -> bool:
    """Whether a sigmoid computes the output, as far as the graph shows."""
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(model.graph.output[0].name)
    while node is not None and node.op_type in KEEPS:
        node = producers.get(node.input[0])
    return node is not None and node.op_type in SIGMOIDS


def scores(values: tuple[float, float], form: Form, description: Description) -> Scores:
    """Whether the confidence is computed from probabilities or from logits, decided by the values on frames.

    Args:
        values: lowest and highest value.

    Raises:
        UserError: one channel whose values are neither probabilities nor logits.
    """
    low, high = values
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return "probabilities"
    if low < 0 or form.channels > 1:
        return "logits"
    raise UserError(
        f"{description.model}: the output's only channel has values from {low:.4g} to {high:.4g} on the frames: "
        "neither probabilities (0 to 1) nor scores around 0, so they give no confidence; export the network with one "
        f"of these, or leave `confidence` out of {description.file}"
    )


def threshold(values: tuple[float, float], description: Description) -> float:
    """The threshold of a single channel, above which values mean the second class; decided by the values on frames.

    Args:
        values: lowest and highest value.

    Raises:
        UserError: the values are neither probabilities nor raw scores.
    """
    low, high = values
    if low >= 0 and high <= 1:
        return PROBABILITY
    if low < 0:
        return RAW
    raise UserError(
        f"{description.model}: the output's only channel has values from {low:.4g} to {high:.4g} on the frames: "
        f"neither probabilities (0 to 1) nor scores around 0; add `threshold: ...` to {description.file}: the value "
        f"above which a pixel is '{description.labels.names[1]}'"
    )
