"""Remove Q/DQ from layers of a TensorRT INT8 file for which a builder fails."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from pipeline.quantization.graph import OURS, WEIGHTED, Graph

PAIR = ("QuantizeLinear", "DequantizeLinear")


def release(source: Path, target: Path, *, nodes: Collection[str]) -> list[str]:
    """Write an INT8 file in which some layers are float, as if they were in ``float_nodes`` with rounded weights.

    A released layer reads the tensor before the Q/DQ pair. Its weight is the int8 values dequantised to the type of
    their scales (float16, or float32 in a file without float16). Q/DQ nodes that no node reads any more are removed.

    Args:
        source, target: ONNX files; ``target`` is written only if a layer was released.
        nodes: names of layers or of Q/DQ nodes; a Q/DQ node stands for all layers that read it. Other names are
            ignored.

    Returns:
        titles of the released layers as in ``quantize.float_layers`` (for layers without a weight: node names), sorted.
    """
    graph = Graph(onnx.load(source))
    wanted, readers = set(nodes), graph.consumers  # look-ups from before the first input is renamed
    for node in graph.nodes:  # a Q/DQ node means its readers; a Q comes before its DQ
        if node.name in wanted and node.op_type in PAIR:
            wanted.update(reader.name for name in node.output for reader in readers[name])
    released, sums = [], set[str]()
    weights: dict[str, onnx.TensorProto] = {}
    for node in graph.nodes:
        if node.name in wanted and node.op_type not in PAIR and (title := _release_node(graph, node, weights)):
            released.append(title)
            sums.update(reader.name for name in node.output for reader in readers[name] if reader.op_type == "Add")
    for node in graph.nodes:  # a skip is quantised only if the layer before the add is INT8, see rule 3 of `tensorrt`
        if node.name in sums:
            _release_node(graph, node, weights)
    if released:
        graph.model.graph.initializer.extend(weights.values())
        _drop_unused(graph.model)
        onnx.checker.check_model(graph.model)
        onnx.save(graph.model, target)
    return sorted(released)


def _release_node(graph: Graph, node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> str | None:
    """Let a node read float tensors instead of dequantised ones.

    Args:
        weights: float weights by name; new ones are added.

    Returns:
        the node's title; None: it has no dequantised input.
    """
    title = None
    for index, name in enumerate(node.input):
        dequantize = graph.producers.get(name)
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        title = title or node.name.removeprefix(OURS)
        values = dequantize.input[0]
        if values in graph.initializers:
            plain = name.removesuffix("_dq")
            if plain not in weights:
                weights[plain] = numpy_helper.from_array(_dequantized(graph, dequantize), plain)
            node.input[index] = plain
            if node.op_type in WEIGHTED and plain.endswith(".weight") and len(graph.consumers[name]) == 1:
                title = plain.removeprefix(OURS).removesuffix(".weight")
        else:
            node.input[index] = graph.producers[values].input[0]
    return title


def _dequantized(graph: Graph, node: onnx.NodeProto) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """The constant that a DequantizeLinear computes, in the type of its scales."""
    values, scale, zero = (numpy_helper.to_array(graph.initializers[name]) for name in node.input)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    shape = [1] * values.ndim
    if scale.ndim:
        shape[axis] = -1
    levels = values.astype(np.float32) - zero.astype(np.float32).reshape(shape)
    return np.asarray((levels * scale.astype(np.float32).reshape(shape)).astype(scale.dtype))


def _drop_unused(model: onnx.ModelProto) -> None:
    """Remove Q/DQ nodes, constants and tensor types that no node uses."""
    graph = model.graph
    outputs = {tensor.name for tensor in graph.output}
    kept: list[onnx.NodeProto] = []
    read = set(outputs)
    for node in reversed(graph.node):
        if node.op_type not in PAIR or not read.isdisjoint(node.output):
            kept.append(node)
            read.update(node.input)
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    results = {name for node in kept for name in node.output}
    types = [value for value in graph.value_info if value.name in results]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)
    graph.value_info.extend(types)
