"""Q/DQ for TensorRT: symmetric int8 where TensorRT fuses it, float16 elsewhere, float32 where float16 fails.

The rules (explicit quantisation, TensorRT 10 and 11):

1. Quantised values are int8 with zero-point 0: activations per tensor, weights per output channel. Biases are float.
2. Q/DQ pairs are on the *inputs* of weighted layers, never on their outputs: Conv, bias, ReLU and the next Q fuse into
  one kernel.
3. A residual add has only its *skip* input quantised: then Conv + Add + ReLU fuse as well. If the convolution before
  the add is float, nothing fuses, and no input is quantised.
4. All inputs of a concatenation have one scale, else every input would be quantised twice.
5. A Q/DQ pair and all its readers have one type. It is float32 if one of the readers needs float32, or if float16
  cannot hold the scale.
6. Preprocessing, upsampling, argmax, the layers after a global pooling, and layers without a good INT8 kernel stay in
  float.
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

#: Q/DQ accept float16 scales from opset 19 on; 20 is the newest opset that TensorRT 10.1 documents.
OPSET = 20
#: INT8 kernels work on 8 channels at a time; for fewer than 16 channels they need a multiple of 8.
CHANNELS, FEW_CHANNELS = 8, 16


def place(
    source: Graph,
    ranges: Ranges,
    *,
    float_nodes: Collection[str] = (),
    float32: Collection[str] = (),
    float16: bool = True,
) -> onnx.ModelProto:
    """The TensorRT INT8 graph of a float deploy graph, which is not changed.

    Args:
        ranges: (low, high) of every float activation; the larger magnitude counts.
        float_nodes: names of nodes that stay in float, in addition to those of the rules.
        float32: names of nodes that do not work in float16, see :mod:`pipeline.quantization.half_limits`.
        float16: whether the parts that are not INT8 are float16; else they are float32.
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
    """The graph of :func:`place` in a form with which ONNX Runtime computes on any CPU what a GPU computes.

    Float16 is rounded and overflows as on a GPU. INT8 layers are computed in float32, so no CPU kernel can saturate.
    """
    return rounded(place(source, ranges, float_nodes=float_nodes, float32=float32))


def with_pairs(
    graph: Graph, ranges: Ranges, quantised: Mapping[str, int], *, float32: Collection[str] = ()
) -> set[str]:
    """Names of the nodes that need float32 once their inputs come out of Q/DQ pairs.

    Args:
        quantised: for each node that reads a pair: the index of that input.
        float32: nodes that need float32 even without pairs.
    """
    wide = set(float32)
    readers: dict[str, list[str]] = defaultdict(list)  # quantised tensor -> nodes that read it
    for node in graph.body:
        if node.name not in quantised:
            continue
        name = node.input[quantised[node.name]]
        readers[name].append(node.name)
        fits = name not in ranges or holds(amax_of(ranges[name]), np.float16)
        if node.op_type in WEIGHTED:
            readers[node.input[1]].append(node.name)
            weight = weight_of(graph, node)
            fits &= holds(channel_peaks(weight, output_axis(node, weight.ndim)), np.float16)
        if not fits:
            wide.add(node.name)
    count = -1
    while count < len(wide):  # repeat: a node may share its input with one node and its weight with another
        count = len(wide)
        for names in readers.values():
            if not wide.isdisjoint(names):
                wide.update(names)
    return wide


def has_kernel(graph: Graph, layer: onnx.NodeProto) -> bool:
    """Whether TensorRT has a good INT8 kernel for a layer, by the rules of NVIDIA's ModelOpt.

    A layer with fewer than 16 channels needs a multiple of 8 and a square kernel; the input channels of the network's
    first layer do not count. A grouped convolution needs a kernel side of 3 or more and a multiple of 8 channels.
    """
    if layer.op_type not in CONVOLUTIONS:
        return True
    weight = graph.initializers[layer.input[1]].dims
    axis = output_axis(layer, len(weight))
    in_channels, out_channels, kernel = weight[1 - axis], weight[axis], weight[2:]
    if next((a.i for a in layer.attribute if a.name == "group"), 1) > 1:
        return bool(out_channels % CHANNELS == 0 and min(kernel) >= 3)
    square = len(set(kernel)) == 1
    counts = (out_channels,) if graph.is_first(layer) else (in_channels, out_channels)
    return all(count >= FEW_CHANNELS or (count % CHANNELS == 0 and square) for count in counts)


def share_scales(graph: Graph, ranges: Ranges) -> Ranges:
    """The ranges, with one common range for all inputs and the output of a concatenation: the widest of them."""
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
    """Index of the input of a residual add that is the skip: the input with the shorter path.

    None if the other input is not the output of an INT8 convolution, or if an input is a constant.

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
    """Inserts Q/DQ pairs into a graph: one pair per tensor, shared by all nodes that read the tensor quantised.

    Attributes:
        float32: names of the nodes that need float32, including the Q/DQ nodes before them.
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
        """Let ``node`` read its input ``index`` through Q/DQ. Tensors without a range (constants) do not change."""
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
        """Store the weight as int8, followed by a DequantizeLinear with one scale per output channel."""
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
        pairs = {pair[0].input[0]: pair for pair in self.pairs.values()}  # by the tensor that they quantise
        for tensor in self.model.graph.input:
            nodes.extend(pairs.get(tensor.name, ()))
        for node in self.model.graph.node:
            nodes.append(node)
            for name in node.output:
                nodes.extend(pairs.get(name, ()))
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
    """The constant weight of a layer in float32."""
    return numpy_helper.to_array(graph.initializers[layer.input[1]]).astype(np.float32)
