"""Q/DQ for TensorRT: symmetric int8, placed where TensorRT fuses it, float16 elsewhere, float32 where that fails.

The rules (explicit quantisation, TensorRT 10 and 11):

1. zero-point 0, int8 everywhere; activations per tensor, weights per output channel, bias in float.
2. Q/DQ on the *inputs* of weighted layers, never on their outputs: Conv, bias, ReLU and the next Q fuse into one
  kernel.
3. Of a residual add, only the *skip* input is quantised: then Conv + Add + ReLU fuse as well. Behind a float
  convolution nothing fuses, and nothing is quantised.
4. What is concatenated has one scale, else every input is quantised twice.
5. A Q/DQ pair and all its readers have one type: float32 when one of the readers needs it, or when float16 cannot hold
  the scale.
6. Preprocessing, upsampling, argmax, what follows a global pooling and layers without a good INT8 kernel stay in float.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from pipeline.quantization.graph import CONVOLUTIONS, WEIGHTED, Graph, output_axis
from pipeline.quantization.half import to_float16
from pipeline.quantization.half_rounding import rounded
from pipeline.quantization.ranges import Ranges
from pipeline.quantization.scales import ScaleType, amax_of, channel_peaks, holds, quantize_per_channel, scale_of

#: The first opset whose Q/DQ take float16 scales is 19; 20 is the newest that TensorRT 10.1 documents.
OPSET = 20
#: Channels that INT8 kernels work on at a time, and below which there is one only for whole multiples of that.
CHANNELS, FEW_CHANNELS = 8, 16


def place(
    source: Graph,
    ranges: Ranges,
    *,
    float_nodes: Collection[str] = (),
    float32: Collection[str] = (),
    float16: bool = True,
) -> onnx.ModelProto:
    """The TensorRT INT8 graph of a float deploy graph, which stays as it is.

    Args:
        ranges: (low, high) of every float activation; the larger magnitude counts.
        float_nodes: names of nodes that stay in float, beside those that the rules name.
        float32: names of nodes that float16 would spoil, see :mod:`pipeline.quantization.half_limits`.
        float16: what is not INT8 is float16, else float32.
    """
    graph = source.copy()
    float_nodes = graph.without_integers(float_nodes)
    pooled = graph.pooled
    layers = {
        node.name
        for node in graph.layers
        if node.name not in float_nodes and has_kernel(graph, node) and pooled.isdisjoint(node.input)
    }
    adds = [node for node in graph.body if node.op_type == "Add" and node.name not in float_nodes]
    skips = {node.name: skip_input(graph, node, layers) for node in adds}  # before the first input is renamed
    shared = share_scales(graph, ranges)
    quantised = {node.name: 0 for node in graph.body if node.name in layers}
    quantised |= {name: skip for name, skip in skips.items() if skip is not None}
    placement = Placement(
        graph,
        shared,
        scale_type=np.float16 if float16 else np.float32,
        float32=with_pairs(graph, shared, quantised, float32=float32) if float16 else (),
    )
    for node in graph.body:
        if node.name in quantised:
            placement.quantize_input(node, quantised[node.name])
        if node.name in layers:
            placement.quantize_weight(node)
    model = onnx.version_converter.convert_version(placement.finish(), OPSET)
    if float16:
        to_float16(model, float32=placement.float32)
    onnx.checker.check_model(model)
    return model


def simulate(
    source: Graph, ranges: Ranges, *, float_nodes: Collection[str] = (), float32: Collection[str] = ()
) -> onnx.ModelProto:
    """What :func:`place` gives, as a graph by which ONNX Runtime computes on any CPU what a GPU computes.

    Float16 is rounded and overflows as on a GPU; INT8 layers are computed in float32, so no CPU's kernel saturates.
    """
    return rounded(place(source, ranges, float_nodes=float_nodes, float32=float32))


def with_pairs(
    graph: Graph, ranges: Ranges, quantised: Mapping[str, int], *, float32: Collection[str] = ()
) -> set[str]:
    """Names of the nodes that need float32 when their inputs come out of Q/DQ pairs.

    Args:
        quantised: by node that reads a pair: the index of that input.
        float32: nodes that need float32 without any pair.
    """
    found = set(float32)
    readers: dict[str, list[str]] = defaultdict(list)  # by what is quantised
    for node in graph.body:
        if node.name not in quantised:
            continue
        name = node.input[quantised[node.name]]
        readers[name].append(node.name)
        held = name not in ranges or holds(amax_of(ranges[name]), np.float16)
        if node.op_type in WEIGHTED:
            readers[node.input[1]].append(node.name)
            weight = weight_of(graph, node)
            held &= holds(channel_peaks(weight, output_axis(node, weight.ndim)), np.float16)
        if not held:
            found.add(node.name)
    before = -1
    while before < len(found):  # a node may share its input with one node and its weight with another
        before = len(found)
        for names in readers.values():
            if not found.isdisjoint(names):
                found.update(names)
    return found


def has_kernel(graph: Graph, layer: onnx.NodeProto) -> bool:
    """Whether TensorRT has a good INT8 kernel for a layer, by the rules that NVIDIA's ModelOpt goes by.

    Fewer than 16 channels only as whole multiples of 8 under a square kernel, or at the network's input; grouped
    convolutions only with a kernel of 3 or more and whole multiples of 8 channels.
    """
    if layer.op_type not in CONVOLUTIONS:
        return True
    weight = graph.initializers[layer.input[1]].dims
    axis = output_axis(layer, len(weight))
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
    fuses = producer is not None and producer.op_type in CONVOLUTIONS and producer.name in layers
    return 1 - main if fuses else None


class Placement:
    """Inserts Q/DQ pairs into a graph: one pair for a tensor, shared by all who read it quantised.

    Attributes:
        float32: names of the nodes that need float32, the Q/DQ nodes before them included.
    """

    def __init__(self, graph: Graph, ranges: Ranges, *, scale_type: ScaleType, float32: Collection[str] = ()) -> None:
        self.graph = graph
        self.ranges = ranges
        self.scale_type = scale_type
        self.float32 = set(float32)
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
            scale = self._constant(f"{name}_scale", scale_of(amax_of(self.ranges[name]), self.scale_type))
            zero = self._constant(f"{name}_zero_point", np.array(0, np.int8))
            self.pairs[name] = (
                helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_q"], name=f"{name}_quantize"),
                helper.make_node(
                    "DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_dq"], name=f"{name}_dequantize"
                ),
            )
        node.input[index] = f"{name}_dq"
        if node.name in self.float32:
            self.float32.update(pair.name for pair in self.pairs[name])

    def quantize_weight(self, node: onnx.NodeProto) -> None:
        """Store the weight as int8 behind a DequantizeLinear with one scale an output channel."""
        name = node.input[1]
        if name not in self.weights:
            weight = weight_of(self.graph, node)
            axis = output_axis(node, weight.ndim)
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
        if node.name in self.float32:
            self.float32.add(self.weights[name].name)

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


def weight_of(graph: Graph, layer: onnx.NodeProto) -> npt.NDArray[np.float32]:
    return numpy_helper.to_array(graph.initializers[layer.input[1]]).astype(np.float32)
