"""The precisions that a network requests for its layers, and the data types in which an engine runs them."""

from __future__ import annotations

import json
import re
from collections import Counter
from types import ModuleType
from typing import Any

#: Patterns of data types in an inspector's text, by our names. The order counts: "UInt8" holds "Int8".
WORDS = {
    "uint8": r"uint8",
    "int8": r"int8",
    "float8": r"fp8|float8",
    "bfloat16": r"bf16|bfloat16",
    "float16": r"fp16|half|float16",
    "float32": r"fp32|float32|float",
    "int32": r"int32",
    "int64": r"int64",
    "bool": r"bool",
}
#: Name of a weight in a network that segpress exported and quantised; the group is the weight's module.
OURS = re.compile(r"(?:network\.net\.)?(.+)\.weight(?:_dq)?")


def precisions(trt: ModuleType, network: Any) -> dict[str, dict[str, int]]:
    """Number of layers with weights, by operator and by the precision that a strongly typed network requests.

    A layer is INT8 if both operands are outputs of DequantizeLinear nodes: the builder fuses this pattern. The parser
    may reshape an operand of a matrix product in between.
    """
    weighted = {
        trt.LayerType.CONVOLUTION: "convolution",
        trt.LayerType.DECONVOLUTION: "deconvolution",
        trt.LayerType.MATRIX_MULTIPLY: "matrix product",
    }
    names = {trt.DataType.HALF: "float16", trt.DataType.FLOAT: "float32"}
    dequantised = set()
    numbers: dict[str, dict[str, int]] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        output = layer.get_output(0)
        reshaped = layer.type == trt.LayerType.SHUFFLE and layer.get_input(0).name in dequantised
        if layer.type == trt.LayerType.DEQUANTIZE or reshaped:
            dequantised.add(output.name)
        if layer.type not in weighted:
            continue
        operands = [layer.get_input(place).name for place in range(min(2, layer.num_inputs)) if layer.get_input(place)]
        int8 = len(operands) == 2 and dequantised.issuperset(operands)
        precision = "int8" if int8 else names.get(output.dtype, str(output.dtype))
        counts = numbers.setdefault(weighted[layer.type], {})
        counts[precision] = counts.get(precision, 0) + 1
    return numbers


def layer_names(trt: ModuleType, network: Any) -> list[str]:
    """Names of all layers but the constants, in order: those of the ONNX nodes."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return [layer.name for layer in layers if layer.type != trt.LayerType.CONSTANT]


def titles(network: Any, nodes: frozenset[str]) -> list[str]:
    """The names in ``quantize.float_layers`` of those nodes that have weights: the module of the weight."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    operands = [
        layer.get_input(1).name
        for layer in layers
        if layer.name in nodes and layer.num_inputs > 1 and layer.get_input(1) is not None
    ]
    return [match[1] for name in operands if (match := OURS.fullmatch(name))]


def inspected(trt: ModuleType, engine: Any) -> str:
    """Information of the engine's inspector about every layer, as JSON."""
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def data_types(information: str) -> dict[str, int]:
    """Number of layers by the data type of their first output: ``{"float16": 9, "int8": 21}``.

    TensorRT 10 writes format and type as one text, TensorRT 11 separately. Layers without a type count as ``unknown``,
    such as all layers of an engine that was built without details. Empty for a text of another form.
    """
    try:
        layers = json.loads(information)["Layers"]
        counts = Counter(_data_type(layer) for layer in layers)
    except (ValueError, KeyError, TypeError):
        return {}
    return dict(sorted(counts.items()))


def _data_type(layer: Any) -> str:
    outputs = layer.get("Outputs") if isinstance(layer, dict) else None
    first = outputs[0] if isinstance(outputs, list) and outputs else None
    if not isinstance(first, dict):
        return "unknown"
    datatype = next((str(first[key]) for key in ("Datatype", "DataType", "Format/Datatype") if key in first), "")
    for name, words in WORDS.items():
        if re.search(rf"(?<![a-z0-9])(?:{words})(?![a-z0-9])", datatype.lower()):
            return name
    return "unknown"
