"""Float16 arithmetic simulated on a CPU: a float32 graph that rounds every float16 tensor to float16.

ONNX Runtime runs float16 files in float32 on x86 CPUs and does not round between nodes. It does keep the Casts that
this module inserts: they round, overflow to infinity above 65504 and lose values below 6e-8, as float16 storage does.
Sums inside a node are float32 in this graph; a node whose sum may overflow stays in float32 anyway, see
:mod:`pipeline.quantization.half_limits`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.quantization.half import FLOAT, FLOAT16, element_types, inline_constants

#: Operators that only move, select or clip values: if float16 holds their inputs exactly, it holds their outputs too.
#: INT8 kernels never store the output of DequantizeLinear.
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
    """The float32 graph that computes what a graph with float16 tensors computes; ``model`` is not changed."""
    simulated = onnx.ModelProto()
    simulated.CopyFrom(model)
    inline_constants(simulated)
    simulated = onnx.shape_inference.infer_shapes(simulated, strict_mode=True)
    graph, kinds = simulated.graph, element_types(simulated)
    readers = Counter(name for node in graph.node for name in node.input)
    fused = {node.input[0] for node in graph.node if node.op_type in FUSED and readers[node.input[0]] == 1}
    for tensor in graph.initializer:
        if tensor.data_type == FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes: list[onnx.NodeProto] = []
    unrounded = set[str]()  # tensors that a later node rounds
    for node in graph.node:
        nodes.append(node)
        exact = node.op_type in EXACT and unrounded.isdisjoint(node.input)
        exact |= node.op_type == "Cast" and kinds.get(node.input[0]) in BYTES
        for index, name in enumerate(node.output):
            if kinds.get(name) != FLOAT16:
                continue
            _set_float32(node)
            if name in fused and not exact:
                unrounded.add(name)
            elif not exact:
                node.output[index] = f"{name}|exact"
                nodes.append(helper.make_node("Cast", [node.output[index]], [f"{name}|half"], to=FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}|half"], [name], to=FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return simulated


def _set_float32(node: onnx.NodeProto) -> None:
    """Change the attributes that make a node's output float16."""
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == FLOAT16:
            attribute.i = FLOAT
        elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT16:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
