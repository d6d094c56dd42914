"""float32 -> float16 inside an ONNX graph, except for nodes that would overflow or lose small values in float16."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

LARGEST = float(np.finfo(np.float16).max)
FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
#: Suffix of a tensor's name for its copy in this type.
ENDS: dict[int, str] = {FLOAT: "_float32", FLOAT16: "_float16"}
#: First and last version of operators that ONNX Runtime computes on CUDA in float32, but not in float16. In float16
#: they would run on the CPU, with copies of their data to the host and back. Source: docs/OperatorKernels.md of
#: microsoft/onnxruntime at commit 001d12d2623f, section CUDAExecutionProvider.
CUDA_FLOAT32: dict[str, tuple[int, int]] = {
    "Clip": (6, 11),
    "CumSum": (11, 13),
    "GridSample": (16, 22),
    "IsInf": (10, 19),
    "Range": (11, 11),
    "RoiAlign": (10, 10),
}


def to_float16(model: onnx.ModelProto, *, float32: Collection[str] = ()) -> None:
    """Convert the float32 tensors and constants of a graph to float16, in place.

    ONNX's schemas define which inputs of a node may be float16: the scales of Resize, for example, stay in float32.
    Operators without a float16 kernel on CUDA stay in float32 too. If a node reads a tensor in the other type, a Cast
    converts it; nodes that read the same tensor share the Cast. A constant that a float16 node reads is clipped to the
    largest float16, for example the upper bound of a Clip; infinity stays infinite.

    Args:
        model: its input frames and output label maps are uint8.
        float32: names of nodes that stay in float32, see :func:`pipeline.quantization.half_limits.float32_nodes`.
    """
    inline_constants(model)
    model.CopyFrom(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    graph, kinds = model.graph, element_types(model)
    types = dict.fromkeys((name for name, kind in kinds.items() if kind == FLOAT), FLOAT)
    reads: list[dict[int, int]] = []  # for each node: index of an input -> type in which the node reads it
    for node in graph.node:
        wide = node.name in float32
        slots = {index: name for index, name in enumerate(node.input) if name in types}
        reads.append({index: FLOAT if wide or not takes_float16(node, index, model) else FLOAT16 for index in slots})
        for index, name in enumerate(node.output):
            if name in types and not wide and takes_float16(node, index, model, output=True):
                types[name] = FLOAT16
                _set_float16(node)
    used = {(node.input[i], kind) for node, read in zip(graph.node, reads, strict=True) for i, kind in read.items()}
    copies: dict[tuple[str, int], str] = {}

    def copy_of(name: str, kind: int) -> str:
        copy = name + ENDS[kind]
        while copy in kinds:
            copy += "_"
        kinds[copy] = kind
        copies[name, kind] = copy
        return copy

    for tensor in list(graph.initializer):
        if (tensor.name, FLOAT16) in used:
            half = numpy_helper.from_array(as_float16(numpy_helper.to_array(tensor)), tensor.name)
            if (tensor.name, FLOAT) in used:
                half.name = copy_of(tensor.name, FLOAT16)
                graph.initializer.append(half)
            else:
                tensor.CopyFrom(half)
                types[tensor.name] = FLOAT16
    nodes: list[onnx.NodeProto] = []
    for node, read in zip(graph.node, reads, strict=True):
        for index, kind in read.items():
            name = node.input[index]
            if types[name] != kind:
                if (name, kind) not in copies:
                    cast = copy_of(name, kind)
                    nodes.append(helper.make_node("Cast", [name], [cast], name=cast, to=kind))
                node.input[index] = copies[name, kind]
        nodes.append(node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    model.CopyFrom(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def as_float16(values: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """Finite values clipped to the largest float16, infinite ones as they are."""
    clipped = np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), values)
    return np.asarray(clipped.astype(np.float16))


def takes_float16(node: onnx.NodeProto, index: int, model: onnx.ModelProto, *, output: bool = False) -> bool:
    """Whether an input (or output) of a node may be float16 in the model's opset, for ONNX and on CUDA."""
    opset = next((entry.version for entry in model.opset_import if entry.domain == node.domain), 0)
    allowed = _allowed(node.op_type, node.domain, opset, output)
    return bool(allowed) and allowed[min(index, len(allowed) - 1)]  # the last entry may describe several inputs


@cache
def _allowed(operator: str, domain: str, opset: int, output: bool) -> tuple[bool, ...]:
    schema = onnx.defs.get_schema(operator, max_inclusive_version=opset, domain=domain)
    first, last = CUDA_FLOAT32.get(operator, (0, -1))
    if not domain and first <= schema.since_version <= last:
        return (False,)
    return tuple("tensor(float16)" in formal.types for formal in (schema.outputs if output else schema.inputs))


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Type of every tensor whose type is known; shapes must have been inferred before."""
    graph = model.graph
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def inline_constants(model: onnx.ModelProto) -> None:
    """Convert Constant nodes to initializers, in place, so that constants have one form."""
    graph = model.graph
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        (attribute,) = node.attribute
        value = helper.get_attribute_value(attribute)
        if attribute.type == AttributeProto.TENSOR:
            value = numpy_helper.to_array(value)
        kind = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        if attribute.name != "value" and attribute.name not in kind:
            continue
        array = np.asarray(value, kind.get(attribute.name))
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        graph.node.remove(node)


def _set_float16(node: onnx.NodeProto) -> None:
    """Change the attributes that make a node's output float32."""
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == FLOAT:
            attribute.i = FLOAT16
        elif attribute.type == AttributeProto.TENSOR and attribute.t.data_type == FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(as_float16(numpy_helper.to_array(attribute.t))))
