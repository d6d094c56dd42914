"""What real float16 computes, on a CPU: a float32 graph that rounds every float16 tensor to float16.

ONNX Runtime runs float16 files in float32 on x86 CPUs, without rounding in between. It keeps the Casts that stand here:
they round, overflow to infinity beyond 65504 and lose what is below 6e-8, as storing in float16 does. Sums inside a
node are float32 here; a node whose sum may overflow stays in float32, see :mod:`pipeline.quantization.half_limits`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.quantization.half import FLOAT, FLOAT16, element_types, inline_constants

#: Operators that only move, choose or cut values: what they give is as exact as what they read. INT8 kernels never
#: store what DequantizeLinear gives.
EXACT = frozenset(
    [
        *("Abs", "Clip", "Concat", "DepthToSpace", "DequantizeLinear", "Expand", "Flatten", "Gather", "GlobalMaxPool"),
        *("Identity", "Max", "MaxPool", "Min", "Neg", "Pad", "ReduceMax", "ReduceMin", "Relu", "Reshape", "Slice"),
        *("SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"),
    ]
)
#: Types whose values float16 holds exactly.
BYTES = (TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL)
#: Operators that a convolution fuses with. Rounding may wait for them: they keep the order of values.
FUSED = ("Relu", "Clip")


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float32 graph of a graph with float16 tensors, which stays as it is."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    inline_constants(found)
    found = onnx.shape_inference.infer_shapes(found, strict_mode=True)
    graph, kinds = found.graph, element_types(found)
    readers = Counter(name for node in graph.node for name in node.input)
    fused = {node.input[0] for node in graph.node if node.op_type in FUSED and readers[node.input[0]] == 1}
    for tensor in graph.initializer:
        if tensor.data_type == FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes: list[onnx.NodeProto] = []
    waiting = set[str]()  # tensors that are not rounded yet
    for node in graph.node:
        nodes.append(node)
        exact = node.op_type in EXACT and waiting.isdisjoint(node.input)
        exact |= node.op_type == "Cast" and kinds.get(node.input[0]) in BYTES
        for index, name in enumerate(node.output):
            if kinds.get(name) != FLOAT16:
                continue
            _give_float32(node)
            if name in fused and not exact:
                waiting.add(name)
            elif not exact:
                node.output[index] = f"{name}|exact"
                nodes.append(helper.make_node("Cast", [node.output[index]], [f"{name}|half"], to=FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}|half"], [name], to=FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return found


def _give_float32(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == FLOAT16:
            attribute.i = FLOAT
        elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT16:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
