"""Networks that fail in float16, and helpers that read their files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto

from pipeline.quantization import half_limits
from pipeline.quantization.half import element_types, to_float16
from pipeline.quantization.half_rounding import rounded

Fill = Callable[[Any], None]


def scaled_up_and_down(net: Any) -> None:
    """A network with activations of 5e5 between two factors, as in networks without normalisation."""
    net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
    net.add("Mul", ["a_relu", net.constant("grow", np.float32(5e4))], "large")
    net.add("Relu", [net.conv("large", "b", 8, 8)], "b_relu")
    net.add("Div", ["b_relu", net.constant("shrink", np.float32(5e4))], "small")
    net.add("Relu", [net.conv("small", "c", 8, 8)], "c_relu")
    net.conv("c_relu", "logits", 8, 16, kernel=1)


def labels(model: onnx.ModelProto, frames: Any) -> npt.NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, {"frames": frame[None]})[0][0] for frame in frames])


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def unprotected(model: onnx.ModelProto) -> onnx.ModelProto:
    half = copied(model)
    to_float16(half)
    return half


def kept_in(make: Any, frames: Any, fill: Fill) -> dict[str, str]:
    """Nodes that stay in float32, each with its reason; checks that the file is valid and gives the same labels."""
    model = make(None, fill)
    half, kept = half_limits.in_float16(model, frames)
    onnx.checker.check_model(half, full_check=True)
    assert (labels(rounded(half), frames) == labels(model, frames)).mean() > 0.97
    return kept


def read_types(model: onnx.ModelProto, node: str) -> list[str]:
    """Element type of every input of a node, followed by `` dq`` if a DequantizeLinear computes it."""
    kinds = element_types(onnx.shape_inference.infer_shapes(model))
    producers = {name: n.op_type for n in model.graph.node for name in n.output}
    (reader,) = [n for n in model.graph.node if n.name == node]
    return [
        f"{TensorProto.DataType.Name(kinds[name])}{' dq' if producers.get(name) == 'DequantizeLinear' else ''}"
        for name in reader.input
    ]
