"""Q/DQ for CPUs: 8-bit activations on both sides of what ONNX Runtime fuses, int8 weights per channel.

Placement is ONNX Runtime's own (QDQQuantizer), fed with our ranges: its CPU kernels fuse exactly the patterns that it
writes. Activations are uint8 for x86, where they run 2.3x faster than int8 ones with VNNI, and int8 for ARM.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from pipeline.quantization import graph as graphs
from pipeline.quantization.graph import Graph
from pipeline.quantization.pixels import fold_normaliser
from pipeline.quantization.ranges import Ranges

#: Range of the frame: scale 1, zero-point 0, so pixels are their own quantised values.
PIXELS = (0.0, 255.0)
#: Operators with an INT8 CPU kernel (or that pass INT8 through).
OPERATORS = [
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "Relu", "Clip", "MaxPool",
    "AveragePool", "GlobalAveragePool", "Resize",
]  # fmt: skip


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
    kept = {node.name for node in graph.body if not is_slow_product(graph, node)}
    if pixels and graph.normaliser is not None:
        kept.add(graph.normaliser.name)
    excluded = [node.name for node in graph.nodes if node.name not in kept.difference(float_nodes)]
    data = {name: (np.array(low, np.float32), np.array(high, np.float32)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        graph.model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if signed else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[],
        nodes_to_exclude=excluded,
        op_types_to_quantize=OPERATORS,
        extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
    )
    quantizer.quantize_model()
    model: onnx.ModelProto = quantizer.model.model
    if pixels and not signed:
        feed_pixels(model, pixels)
    quantizer.model.topological_sort()
    onnx.checker.check_model(model)
    return model


def is_slow_product(graph: Graph, node: onnx.NodeProto) -> bool:
    """A matrix product that 8 bits make slower: with a small constant (pooling), or of two activations (attention).

    Attention over 3,600 places took TwinLiteNet 23 of 84 ms longer in INT8 than in float, and its probabilities are
    far below a 255th.
    """
    if node.op_type not in ("MatMul", "Gemm"):
        return False
    constants = [graph.initializers[name] for name in node.input[:2] if name in graph.initializers]
    return not constants or any(min(constant.dims) < graphs.SMALLEST_MATRIX for constant in constants)


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
