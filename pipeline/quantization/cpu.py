"""Q/DQ for CPUs: 8-bit activations before and after the nodes that ONNX Runtime fuses, int8 weights per channel.

The Q/DQ nodes are placed by ONNX Runtime's own QDQQuantizer with our ranges, because its CPU kernels fuse exactly the
patterns that it writes. Activations are uint8 for x86 (with VNNI 2.3x faster than int8 there) and int8 for ARM. Weights
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

#: Activation range of the frame: scale 1 and zero-point 0, so the quantised values are the pixels themselves.
PIXELS = (0.0, 255.0)
#: Share of a range by which it may exceed the limits of a Clip: ranges are rounded to 9 digits.
TOLERANCE = 1e-6
#: Operators with an INT8 CPU kernel, or that pass INT8 through. Average pooling is not among them: its INT8 kernels are
#: no faster than float, and their rounding of a mean over the whole image changed 0.4 % of a small network's labels.
OPERATORS = ["Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "Relu", "Clip", "MaxPool", "Resize"]


def place(source: Graph, ranges: Ranges, *, float_nodes: Collection[str] = (), signed: bool = False) -> onnx.ModelProto:
    """The CPU INT8 graph of a float deploy graph, which is not changed.

    Args:
        ranges: (low, high) of every float activation.
        float_nodes: names of nodes that stay in float; nodes that read only their results stay in float too.
        signed: int8 activations, for ARM, instead of uint8.
    """
    graph = source.copy()
    float_nodes = graph.without_integers(float_nodes)
    pixels = ""  # name of the tensor with the frame's bytes, if a quantised layer reads it
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
    """Whether a matrix product is slower in 8 bits than in float, or has no INT8 kernel.

    Products with a small constant (pooling) and of two activations (attention) are slower: attention over 3,600
    positions made TwinLiteNet 23 ms slower in INT8 (84 ms in all), and its probabilities are far smaller than 1/255. No
    kernel exists when the constant is on the left or is a stack of matrices: it has no scale per output channel then.
    """
    if node.op_type not in ("MatMul", "Gemm"):
        return False
    weight = graph.initializers.get(node.input[1])
    return weight is None or len(weight.dims) != 2 or min(weight.dims) < graphs.SMALLEST_MATRIX


def cuts_range(graph: Graph, node: onnx.NodeProto, ranges: Ranges) -> bool:
    """Whether a Clip or ReLU clips values inside the 8-bit range of its output, so that the node must stay.

    ONNX Runtime's quantiser removes every Clip and ReLU after a quantised layer: the range then does the clipping. That
    is right only if the range is within the limits. It is wrong for Clip(0.5, 2): every range contains 0, so values of
    0 to 0.5 would pass. A Clip stays as well if a limit is not a constant.
    """
    if node.op_type not in ("Clip", "Relu") or node.output[0] not in ranges:
        return False
    low, high = ranges[node.output[0]]
    limits = (0.0, np.inf) if node.op_type == "Relu" else clip_limits(graph, node)
    tolerance = TOLERANCE * (high - low)
    return limits is None or low < limits[0] - tolerance or high > limits[1] + tolerance


def clip_limits(graph: Graph, clip: onnx.NodeProto) -> tuple[float, float] | None:
    """Minimum and maximum of a Clip, from its inputs or (before opset 11) its attributes; None: not constant."""
    attributes = {attribute.name: attribute.f for attribute in clip.attribute}
    limits = [attributes.get("min", -np.inf), attributes.get("max", np.inf)]
    for index, name in enumerate(clip.input[1:3]):
        if name:
            value = _constant(graph, name)
            if value is None:
                return None
            limits[index] = value
    return limits[0], limits[1]


def _constant(graph: Graph, name: str) -> float | None:
    """The number in an initializer or (exporters for opset 11) a Constant node; None: the tensor is neither."""
    if name in graph.initializers:
        return float(numpy_helper.to_array(graph.initializers[name]).item())
    producer = graph.producers.get(name)
    if producer is None or producer.op_type != "Constant":
        return None
    attribute = producer.attribute[0]
    return float(numpy_helper.to_array(attribute.t).item() if attribute.name == "value" else attribute.f)


def feed_pixels(model: onnx.ModelProto, pixels: str) -> None:
    """Let the layer that reads the quantised tensor ``pixels`` read the uint8 frame itself.

    Frame -> Cast -> Transpose -> Quantize -> Dequantize becomes Frame -> Transpose -> Dequantize. The values are the
    same, because the scale is 1 and the zero-point is 0.
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
