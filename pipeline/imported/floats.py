"""Convert an imported network to the number types that every target supports: float32, and int32 for ids.

Float16 networks, integer images and label maps of bytes are converted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import UserError
from pipeline.imported import reading
from pipeline.imported.description import Description

#: Operators with one data input that only move its values.
MOVES = (
    *("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "Split"),
    *("DepthToSpace", "SpaceToDepth"),
)
#: Types of ids that TensorRT supports only at a network's inputs and outputs.
SMALL = (TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16)
#: (mean, std) for a network that reads pixels of 0..255: (pixel / 255 - mean) / std is the pixel.
PIXELS = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
#: (mean, std) of a description without these keys.
DEFAULTS = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
#: Largest distance of an integer image's values from whole numbers; a std of five digits stays within it.
WHOLE = 0.01


def holds_float16(model: onnx.ModelProto) -> bool:
    """Whether any part of a network computes in float16."""
    values = (*model.graph.input, *model.graph.output)
    kinds = {value.type.tensor_type.elem_type for value in values}
    casts = {a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to"}
    return TensorProto.FLOAT16 in kinds | casts | {tensor.data_type for tensor in reading.tensors(model.graph)}


def in_float32(model: onnx.ModelProto) -> None:
    """Convert all float16 tensors to float32, in place; the conversion is exact."""
    _in_float32(model.graph)


def _in_float32(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _in_float32(inner)


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        value = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def scaled(description: Description, kind: int) -> Description:
    """The description with a mean and std that suit the type of the network's image.

    An integer image holds the pixels themselves if the description has no mean and std. If it has, they must turn
    pixels into whole numbers.

    Args:
        kind: ONNX element type of the image.

    Raises:
        UserError: mean and std give values that the type cannot hold.
    """
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    if not np.issubdtype(dtype, np.integer):
        return description
    described = (description.mean, description.std)
    mean, std = (np.array(values) for values in (PIXELS if described == DEFAULTS else described))
    levels = (np.arange(256)[:, np.newaxis] / 255 - mean) / std
    limits = np.iinfo(dtype)
    fits = limits.min <= np.rint(levels.min()) and np.rint(levels.max()) <= limits.max
    if np.abs(levels - np.rint(levels)).max() > WHOLE or not fits:
        advice = "leave mean and std out" if np.iinfo(dtype).max >= np.iinfo(np.uint8).max else "write std: 0.00392157"
        offset = " and mean: 0.501961 (128 / 255)" if dtype == np.int8 else ""
        raise UserError(
            f"{description.file}: mean and std: got {_listed(description.mean)} and {_listed(description.std)}, which "
            f"give an image with values {levels.min():.3g} to {levels.max():.3g}; the input of "
            f"{description.model.name} is {dtype.name}: it needs whole numbers, and the network normalises them "
            f"itself; {advice}{offset}"
        )
    if np.allclose(std, PIXELS[1], rtol=1e-4):  # 1/255, rounded in the file
        std = np.array(PIXELS[1])
        mean = np.rint(mean * 255) / 255
    return replace(description, mean=_triple(mean), std=_triple(std))


def take_float(model: onnx.ModelProto) -> None:
    """Change the type of the network's image from integers to float32, in place; the values stay whole numbers.

    Casts after the input are then without effect. If another node needs the integers, a Cast restores their type.
    """
    graph = model.graph
    image, kind = graph.input[0], graph.input[0].type.tensor_type.elem_type
    if kind == TensorProto.FLOAT:
        return
    image.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]
    moved = {image.name}
    for node in graph.node:
        if node.input and node.input[0] in moved and node.op_type in MOVES:
            moved.update(node.output)
        elif not moved.isdisjoint(node.input) and node.op_type != "Cast":
            break
    else:
        return
    integers = f"{image.name}_in_its_type"
    for node in graph.node:
        node.input[:] = [integers if name == image.name else name for name in node.input]
    graph.node.insert(0, helper.make_node("Cast", [image.name], [integers], name=integers, to=kind))


def give_int32(model: onnx.ModelProto) -> None:
    """If the network casts its ids to a smaller type at its end, cast them to int32 instead, in place.

    TensorRT does not support bytes between layers.
    """
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    node = producers.get(graph.output[0].name)
    while node is not None and node.op_type in MOVES and uses[node.input[0]] == 1:
        node = producers.get(node.input[0])
    if node is not None and node.op_type == "Cast":
        target = next(attribute for attribute in node.attribute if attribute.name == "to")
        if target.i in SMALL:
            target.i = graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
            del graph.value_info[:]


def _triple(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _listed(values: tuple[float, ...]) -> str:
    return str([float(f"{value:.6g}") for value in values])
