"""Q/DQ for TensorRT: symmetric int8, placed where TensorRT fuses it, float16 elsewhere.

The rules (explicit quantisation, TensorRT 10 and 11):

1. zero-point 0, int8 everywhere; activations per tensor, weights per output channel, bias in float.
2. Q/DQ on the *inputs* of weighted layers, never on their outputs: Conv, bias, ReLU and the next Q fuse into one
  kernel.
3. Of a residual add, only the *skip* input is quantised: then Conv + Add + ReLU fuse as well. Behind a float
  convolution nothing fuses, and nothing is quantised.
4. What is concatenated has one scale, else every input is quantised twice.
5. Preprocessing, upsampling, argmax, what follows a global pooling and layers without a good INT8 kernel stay in float.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from pipeline.quantization.graph import Graph
from pipeline.quantization.half import to_float16
from pipeline.quantization.ranges import Ranges

#: The first opset whose Q/DQ take float16 scales is 19; 20 is the newest that TensorRT 10.1 documents.
OPSET = 20
INT8_MAX = 127
#: Index of the output-channel axis of a weight.
CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1}
#: Channels that INT8 kernels work on at a time, and below which there is one only for whole multiples of that.
CHANNELS, FEW_CHANNELS = 8, 16

ScaleType = type[np.float16] | type[np.float32]


def place(
    source: Graph,
    ranges: Ranges,
    *,
    float_nodes: Collection[str] = (),
    float16: bool = True,
    scale_type: ScaleType | None = None,
) -> onnx.ModelProto:
    """The TensorRT INT8 graph of a float deploy graph, which stays as it is.

    Args:
        ranges: (low, high) of every float activation; the larger magnitude counts.
        float_nodes: names of nodes that stay in float, beside those that the rules name.
        float16: what is not INT8 is float16, else float32.
        scale_type: in whose precision the scales are; None is that of the rest.
    """
    graph = source.copy()
    float_nodes = graph.without_integers(float_nodes)
    pooled = graph.pooled
    layers = {
        node.name
        for node in graph.layers
        if node.name not in float_nodes and has_kernel(graph, node) and pooled.isdisjoint(node.input)
    }
    placement = Placement(
        graph, share_scales(graph, ranges), scale_type=scale_type or (np.float16 if float16 else np.float32)
    )
    adds = [node for node in graph.body if node.op_type == "Add" and node.name not in float_nodes]
    skips = {node.name: skip_input(graph, node, layers) for node in adds}  # before the first input is renamed
    for node in graph.body:
        if node.name in layers:
            placement.quantize_input(node, 0)
            placement.quantize_weight(node)
        elif (skip := skips.get(node.name)) is not None:
            placement.quantize_input(node, skip)
    model = onnx.version_converter.convert_version(placement.finish(), OPSET)
    if float16:
        to_float16(model)
    onnx.checker.check_model(model)
    return model


def has_kernel(graph: Graph, layer: onnx.NodeProto) -> bool:
    """Whether TensorRT has a good INT8 kernel for a layer, by the rules that NVIDIA's ModelOpt goes by.

    Fewer than 16 channels only as whole multiples of 8 under a square kernel, or at the network's input; grouped
    convolutions only with a kernel of 3 or more and whole multiples of 8 channels.
    """
    if layer.op_type not in CHANNEL_AXIS:
        return True
    weight = graph.initializers[layer.input[1]].dims
    axis = CHANNEL_AXIS[layer.op_type]
    given, made, kernel = weight[1 - axis], weight[axis], weight[2:]
    if next((a.i for a in layer.attribute if a.name == "group"), 1) > 1:
        return bool(made % CHANNELS == 0 and min(kernel) >= 3)
    whole = len(set(kernel)) == 1
    first = graph.is_first(layer)
    return all(c >= FEW_CHANNELS or (c % CHANNELS == 0 and whole) for c in ((made,) if first else (given, made)))


def share_scales(graph: Graph, ranges: Ranges) -> Ranges:
    """Ranges in which the inputs and the output of each concatenation have one: the widest of them."""
    shared = dict(ranges)
    concats = [[*node.input, *node.output] for node in graph.body if node.op_type == "Concat"]
    groups = [[name for name in names if name in shared] for names in concats]
    changed = True
    while changed:  # a tensor may be in two groups
        changed = False
        for group in groups:
            if not group:
                continue
            widest = min(shared[name][0] for name in group), max(shared[name][1] for name in group)
            changed |= any(shared[name] != widest for name in group)
            shared.update(dict.fromkeys(group, widest))
    return shared


def skip_input(graph: Graph, add: onnx.NodeProto, layers: Collection[str]) -> int | None:
    """Which input of a residual add is the skip: that of the shorter path, when the other is an INT8 layer's output.

    Args:
        layers: names of the layers in INT8.
    """
    if any(name in graph.initializers for name in add.input):
        return None
    main = max((0, 1), key=lambda index: graph.depth[add.input[index]])
    producer = graph.producers.get(add.input[main])
    fuses = producer is not None and producer.op_type in CHANNEL_AXIS and producer.name in layers
    return 1 - main if fuses else None


class Placement:
    """Inserts Q/DQ pairs into a graph: one pair for a tensor, shared by all who read it quantised."""

    def __init__(self, graph: Graph, ranges: Ranges, *, scale_type: ScaleType) -> None:
        self.graph = graph
        self.ranges = ranges
        self.scale_type = scale_type
        self.model = graph.model
        self.pairs: dict[str, tuple[onnx.NodeProto, onnx.NodeProto]] = {}
        self.weights: dict[str, onnx.NodeProto] = {}
        self.replaced: set[str] = set()

    def quantize_input(self, node: onnx.NodeProto, index: int) -> None:
        """Let ``node`` read its input ``index`` through Q/DQ. Tensors without a range (constants) are left alone."""
        name = node.input[index]
        if name not in self.ranges:
            return
        if name not in self.pairs:
            amax = np.array(max(abs(value) for value in self.ranges[name]), np.float32)
            scale = self._constant(f"{name}_scale", scale_of(amax, self.scale_type))
            zero = self._constant(f"{name}_zero_point", np.array(0, np.int8))
            self.pairs[name] = (
                helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_q"], name=f"{name}_quantize"),
                helper.make_node(
                    "DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_dq"], name=f"{name}_dequantize"
                ),
            )
        node.input[index] = f"{name}_dq"

    def quantize_weight(self, node: onnx.NodeProto) -> None:
        """Store the weight as int8 behind a DequantizeLinear with one scale an output channel."""
        name = node.input[1]
        if name not in self.weights:
            weight = numpy_helper.to_array(self.graph.initializers[name]).astype(np.float32)
            axis = CHANNEL_AXIS.get(node.op_type, weight.ndim - 1)
            if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
                axis = 0
            values, scales = quantize_per_channel(weight, axis, scale_type=self.scale_type)
            inputs = [
                self._constant(f"{name}_int8", values),
                self._constant(f"{name}_scale", scales),
                self._constant(f"{name}_zero_point", np.zeros(scales.shape, np.int8)),
            ]
            self.weights[name] = helper.make_node(
                "DequantizeLinear", inputs, [f"{name}_dq"], name=f"{name}_dequantize", axis=axis
            )
            self.replaced.add(name)
        node.input[1] = f"{name}_dq"

    def finish(self) -> onnx.ModelProto:
        """The graph with all pairs, in topological order."""
        nodes = list(self.weights.values())
        source = {pair[0].input[0]: pair for pair in self.pairs.values()}
        for tensor in self.model.graph.input:
            nodes.extend(source.get(tensor.name, ()))
        for node in self.model.graph.node:
            nodes.append(node)
            for name in node.output:
                nodes.extend(source.get(name, ()))
        used = {name for node in nodes for name in node.input}
        initializers = [t for t in self.model.graph.initializer if t.name not in self.replaced or t.name in used]
        del self.model.graph.node[:], self.model.graph.initializer[:]
        self.model.graph.node.extend(nodes)
        self.model.graph.initializer.extend(initializers)
        return self.model

    def _constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(value, name))
        return name


def scale_of(amax: npt.NDArray[np.float32], scale_type: ScaleType) -> npt.NDArray[np.float32]:
    """Scales that map ``amax`` to 127, rounded to normal numbers of ``scale_type`` and never zero.

    Rounding comes before quantisation: a scale that changed afterwards would stretch the weights.
    """
    limits = np.finfo(scale_type)
    scales = np.clip(amax / INT8_MAX, max(1e-8 / INT8_MAX, float(limits.tiny)), float(limits.max))
    return np.asarray(scales.astype(scale_type), np.float32)


def quantize_per_channel(
    weight: npt.NDArray[np.float32], axis: int, *, scale_type: ScaleType = np.float32
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric int8 values and one scale a channel of ``axis``, exact in ``scale_type``.

    Example:
        >>> values, scales = quantize_per_channel(np.array([[1.0, -2.0], [0.0, 0.5]], np.float32), 0)
        >>> values.tolist()
        [[64, -127], [0, 127]]
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    scales = scale_of(np.abs(weight).max(axis=others), scale_type)
    shape = [1] * weight.ndim
    shape[axis] = -1
    values = np.clip(np.rint(weight / scales.reshape(shape)), -INT8_MAX, INT8_MAX).astype(np.int8)
    return values, scales
