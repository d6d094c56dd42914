"""In what precision the layers of a network were asked for, and in what data types an engine runs them."""

from __future__ import annotations

import json
import re
from collections import Counter
from types import ModuleType
from typing import Any

#: Words for data types in an inspector's text, by ours. The order counts: "UInt8" holds "Int8".
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
#: What is put before and after the name of a weight in a network that we exported and quantised.
OURS = re.compile(r"(?:network\.net\.)?(.+)\.weight(?:_dq)?")


def precisions(trt: ModuleType, network: Any) -> dict[str, dict[str, int]]:
    """In what precision the layers with weights were asked for: operator -> precision -> how many.

    A strongly typed network is built as it stands. INT8 is a layer whose both operands come out of a DequantizeLinear:
    that is the pattern which the builder fuses. The parser may reshape an operand of a matrix product in between.
    """
    weighted = {
        trt.LayerType.CONVOLUTION: "convolution",
        trt.LayerType.DECONVOLUTION: "deconvolution",
        trt.LayerType.MATRIX_MULTIPLY: "matrix product",
    }
    names = {trt.DataType.HALF: "float16", trt.DataType.FLOAT: "float32"}
    dequantised = set()
    found: dict[str, dict[str, int]] = {}
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
        counts = found.setdefault(weighted[layer.type], {})
        counts[precision] = counts.get(precision, 0) + 1
    return found


def layer_names(trt: ModuleType, network: Any) -> list[str]:
    """Names of all layers but the constants, in order: those of the ONNX nodes."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return [layer.name for layer in layers if layer.type != trt.LayerType.CONSTANT]


def titles(network: Any, nodes: frozenset[str]) -> list[str]:
    """What ``quantize.float_layers`` calls those of these nodes that hold weights: the module of the weight."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    operands = [
        layer.get_input(1).name
        for layer in layers
        if layer.name in nodes and layer.num_inputs > 1 and layer.get_input(1) is not None
    ]
    return [found[1] for name in operands if (found := OURS.fullmatch(name))]


def inspected(trt: ModuleType, engine: Any) -> str:
    """What the engine's inspector tells of every layer, as JSON."""
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def data_types(information: str) -> dict[str, int]:
    """How many layers give their first output in which data type: ``{"float16": 9, "int8": 21}``.

    TensorRT 10 writes format and type into one text, TensorRT 11 apart. What tells no type is counted as ``unknown``,
    as every layer of an engine that was built without details; a text of another form counts nothing.
    """
    try:
        layers = json.loads(information)["Layers"]
        found = Counter(_data_type(layer) for layer in layers)
    except (ValueError, KeyError, TypeError):
        return {}
    return dict(sorted(found.items()))


def _data_type(layer: Any) -> str:
    outputs = layer.get("Outputs") if isinstance(layer, dict) else None
    first = outputs[0] if isinstance(outputs, list) and outputs else None
    if not isinstance(first, dict):
        return "unknown"
    told = next((str(first[key]) for key in ("Datatype", "DataType", "Format/Datatype") if key in first), "")
    for name, words in WORDS.items():
        if re.search(rf"(?<![a-z0-9])(?:{words})(?![a-z0-9])", told.lower()):
            return name
    return "unknown"
