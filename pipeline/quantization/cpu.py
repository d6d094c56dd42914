"""Q/DQ for CPUs: 8-bit activations on both sides of what ONNX Runtime fuses, int8 weights per channel.

Placement is ONNX Runtime's own (QDQQuantizer), fed with our ranges: its CPU kernels fuse exactly the patterns that it
writes. Activations are uint8 for x86, where they run 2.3x faster than int8 ones with VNNI, and int8 for ARM. Weights
have the scales of :mod:`pipeline.quantization.saturation`, so that x86 kernels without VNNI give the same labels.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from pipeline.quantization import graph as graphs
from pipeline.quantization import saturation
from pipeline.quantization.graph import Graph
from pipeline.quantization.pixels import fold_normaliser
from pipeline.quantization.ranges import Ranges

#: Range of the frame: scale 1, zero-point 0, so pixels are their own quantised values.
PIXELS = (0.0, 255.0)
#: Share of a range by which it may exceed the limits of a Clip: ranges are rounded to 9 digits.
TOLERANCE = 1e-6
#: Operators with an INT8 CPU kernel (or that pass INT8 through). Those of average pooling are no faster than float, and
#: round a mean over the whole image in a way of their own, which changed 0.4 percent of the labels of a small network.
OPERATORS = ["Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "Relu", "Clip", "MaxPool", "Resize"]


def place(source: Graph, ranges: Ranges, *, float_nodes: Collection[str] = (), signed: bool = False) -> onnx.ModelProto:
    """The CPU INT8 graph of a float deploy graph, which stays as it is.

    Args:
        ranges: (low, high) of every float activation.
        float_nodes: names of nodes that stay in float, and with them what only they feed.
        signed: int8 activations, for ARM, instead of uint8.
    """
    graph = source.copy()
    float_nodes = graph.without_integers(float_nodes)
    pixels = ""  # the tensor that holds the frame's bytes, when a quantised layer reads them
    readers = {node.name for node in graph.normalised}.intersection(node.name for node in graph.body)
    if graph.normaliser is not None and not float_nodes.issuperset(readers):
        folded = fold_normaliser(graph)
        if folded.normaliser is None or graph.normaliser.name not in float_nodes:
            pixels = graph.normaliser.input[0]
            ranges = {**ranges, pixels: PIXELS}
            graph = folded
    integer = [n for n in graph.body if not is_slow_product(graph, n) and not cuts_range(graph, n, ranges)]
    if pixels and graph.normaliser is not None:
        integer.append(graph.normaliser)
    integer = [node for node in integer if node.name not in float_nodes]
    kept = {node.name for node in integer}
    layers = [n for n in integer if n.op_type in saturation.PAIRED and n.input[1] in graph.initializers]
    data = {name: (np.array(low, np.float32), np.array(high, np.float32)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        graph.model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if signed else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[],
        nodes_to_exclude=[node.name for node in graph.nodes if node.name not in kept],
        op_types_to_quantize=OPERATORS,
        extra_options={
            "ActivationSymmetric": False,
            "WeightSymmetric": True,
            "TensorQuantOverrides": saturation.overrides(layers, graph.initializers),
        },
    )
    quantizer.quantize_model()
    model: onnx.ModelProto = quantizer.model.model
    if pixels and not signed:
        feed_pixels(model, pixels)
    quantizer.model.topological_sort()
    onnx.checker.check_model(model)
    return model


def is_slow_product(graph: Graph, node: onnx.NodeProto) -> bool:
    """A matrix product that 8 bits make slower, or that no INT8 kernel computes.

    Slower: with a small constant (pooling), or of two activations (attention). Attention over 3,600 places took
    TwinLiteNet 23 of 84 ms longer in INT8 than in float, and its probabilities are far below a 255th. No kernel: the
    constant is on the left, or is a stack of matrices; its output channels cannot have scales of their own.
    """
    if node.op_type not in ("MatMul", "Gemm"):
        return False
    weight = graph.initializers.get(node.input[1])
    return weight is None or len(weight.dims) != 2 or min(weight.dims) < graphs.SMALLEST_MATRIX


def cuts_range(graph: Graph, node: onnx.NodeProto, ranges: Ranges) -> bool:
    """Whether a Clip or ReLU cuts values off that the 8-bit range of its output would let through.

    ONNX Runtime's quantiser removes every Clip and ReLU behind a quantised layer and leaves clipping to the range. That
    is right where the range is within the limits. It is wrong for Clip(0.5, 2): ranges hold 0, so 0 to 0.5 came back.
    A limit that is no constant is unknown, and such a Clip stays too.
    """
    if node.op_type not in ("Clip", "Relu") or node.output[0] not in ranges:
        return False
    low, high = ranges[node.output[0]]
    limits = (0.0, np.inf) if node.op_type == "Relu" else clip_limits(graph, node)
    room = TOLERANCE * (high - low)
    return limits is None or low < limits[0] - room or high > limits[1] + room


def clip_limits(graph: Graph, clip: onnx.NodeProto) -> tuple[float, float] | None:
    """Minimum and maximum of a Clip, from its inputs or, before opset 11, its attributes; None: not constants."""
    given = {attribute.name: attribute.f for attribute in clip.attribute}
    limits = [given.get("min", -np.inf), given.get("max", np.inf)]
    for index, name in enumerate(clip.input[1:3]):
        if name:
            value = _constant(graph, name)
            if value is None:
                return None
            limits[index] = value
    return limits[0], limits[1]


def _constant(graph: Graph, name: str) -> float | None:
    """Value of a tensor of one number: of an initializer, or of a Constant node as exporters for opset 11 write it."""
    if name in graph.initializers:
        return float(numpy_helper.to_array(graph.initializers[name]).item())
    maker = graph.producers.get(name)
    if maker is None or maker.op_type != "Constant":
        return None
    given = maker.attribute[0]
    return float(numpy_helper.to_array(given.t).item() if given.name == "value" else given.f)


def feed_pixels(model: onnx.ModelProto, pixels: str) -> None:
    """Let the layer that reads the quantised tensor ``pixels`` read the uint8 frame itself.

    Frame -> Cast -> Transpose -> Quantize -> Dequantize becomes Frame -> Transpose -> Dequantize, which is the same:
    scale is 1 and zero-point 0.
    """
    graph = model.graph
    transpose = next(node for node in graph.node if pixels in node.output)
    cast = next(node for node in graph.node if transpose.input[0] in node.output)
    quantise = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == pixels)
    transpose.input[0] = cast.input[0]
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == quantise.output[0]:
                node.input[index] = transpose.output[0]
    graph.node.remove(cast)
    graph.node.remove(quantise)
    stale = [value for value in graph.value_info if value.name in (cast.output[0], transpose.output[0])]
    for value in stale:
        graph.value_info.remove(value)
