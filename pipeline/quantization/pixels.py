"""Fold the normalisation into the weights of the first convolution, which then reads the pixels themselves.

The normaliser is a 1x1 convolution over three channels, and its INT8 kernel takes a tenth of a small network's time.
Without it, the frame's bytes are the quantised input of the first layer. The layer's zero padding must change with it:
zero means the mean colour after normalisation, but black in pixels. So the frame is padded with the mean colour,
rounded to whole levels (at most half a level off, which is less than the rounding of a normalised input).

The bias must fit the rounded weights. Pixels have a large mean, so with the bias of the exact weights every channel
would be off by the rounding error times that mean. The bias is chosen so that the rounded weights give exactly the
float network's result for the mean colour.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from pipeline.quantization import saturation
from pipeline.quantization.graph import Graph

Floats = npt.NDArray[np.floating]


def fold_normaliser(graph: Graph) -> Graph:
    """The graph without its normaliser, or the graph itself where the normaliser cannot be folded.

    Folding needs a frame of fixed shape and exactly one reader of the normalised frame, an ordinary convolution. If the
    weights were rounded to 8 bits without error, the results would differ at the border only.
    """
    normaliser = graph.normaliser
    readers = graph.normalised
    frame = graph.model.graph.input[0].name
    if normaliser is None or len(readers) != 1 or not _can_fold(graph, readers[0]) or frame not in graph.shapes:
        return graph
    folded = graph.copy()
    normaliser = next(node for node in folded.nodes if node.name == normaliser.name)
    layer = next(node for node in folded.nodes if node.name == readers[0].name)
    matrix, shift = (numpy_helper.to_array(graph.initializers[name]) for name in normaliser.input[1:3])
    matrix = matrix[:, :, 0, 0]  # (3 normalised, 3 pixels)
    weight = numpy_helper.to_array(graph.initializers[layer.input[1]])
    bias = np.zeros(len(weight), np.float32)
    if len(layer.input) > 2 and layer.input[2]:
        bias = numpy_helper.to_array(graph.initializers[layer.input[2]])
    on_pixels = np.einsum("oikl,ip->opkl", weight.astype(np.float64), matrix)
    mean = np.linalg.solve(matrix, -shift)
    values, scales = saturation.quantize(layer, on_pixels.astype(np.float32))
    rounded = values * scales.reshape(-1, 1, 1, 1).astype(np.float64)
    bias_on_pixels = bias - np.einsum("opkl,p->o", rounded, mean)
    mean_colour = np.clip(np.rint(mean), 0, 255).astype(np.uint8)

    constants: dict[str, npt.NDArray[np.generic]] = {
        on_pixels_name(layer.input[1]): on_pixels.astype(np.float32),
        f"{on_pixels_name(layer.input[1])}_bias": bias_on_pixels.astype(np.float32),
    }
    inputs = [normaliser.input[0], *constants]
    del layer.input[:]
    layer.input.extend(inputs)
    pads = next((attribute for attribute in layer.attribute if attribute.name == "pads"), None)
    padding: list[onnx.NodeProto] = []
    if pads is not None and any(pads.ints):
        padding, borders = pad_frame(frame, graph.shapes[frame], list(pads.ints), mean_colour)
        constants |= borders
        for node in folded.nodes:
            for index, name in enumerate(node.input):
                if name == frame:
                    node.input[index] = padding[-1].output[0]
        pads.ints[:] = [0] * len(pads.ints)
    rest = [node for node in folded.nodes if node.name != normaliser.name]
    del folded.model.graph.node[:], folded.model.graph.value_info[:]
    folded.model.graph.node.extend([*padding, *rest])
    folded.model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return Graph(onnx.shape_inference.infer_shapes(folded.model))


def on_pixels_name(weight: str) -> str:
    """Name of a weight after normalisation was folded into it."""
    return f"{weight}_on_pixels"


def _can_fold(graph: Graph, layer: onnx.NodeProto) -> bool:
    settings = {attribute.name: attribute for attribute in layer.attribute}
    ordinary = "group" not in settings or settings["group"].i == 1
    explicit = "auto_pad" not in settings or settings["auto_pad"].s in (b"", b"NOTSET")
    return layer.op_type == "Conv" and graph.is_weighted(layer) and ordinary and explicit


def pad_frame(
    frame: str, shape: tuple[int, ...], pads: list[int], colour: npt.NDArray[np.uint8]
) -> tuple[list[onnx.NodeProto], dict[str, npt.NDArray[np.generic]]]:
    """Nodes and constants that add a border of one colour to frames (N, H, W, 3).

    Args:
        pads: number of rows above, columns left, rows below, columns right.
    """
    images, height, width, _ = shape
    above, left, below, right = pads
    sizes = {
        "above": (images, above, width, 3),
        "below": (images, below, width, 3),
        "left": (images, above + height + below, left, 3),
        "right": (images, above + height + below, right, 3),
    }
    borders: dict[str, npt.NDArray[np.generic]] = {
        f"border_{side}": np.broadcast_to(colour, size).copy() for side, size in sizes.items() if 0 not in size
    }
    nodes, name = [], frame
    for axis, first, last in ((1, "border_above", "border_below"), (2, "border_left", "border_right")):
        parts = [part for part in (first, name, last) if part == name or part in borders]
        if len(parts) > 1:
            name = f"{frame}_padded_{axis}"
            nodes.append(helper.make_node("Concat", parts, [name], name=name, axis=axis))
    return nodes, borders
