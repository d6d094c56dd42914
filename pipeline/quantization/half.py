"""float32 -> float16 inside an ONNX graph whose inputs and outputs are integers."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Inputs that ONNX wants in float32 whatever the data type: Resize takes its scales so.
FLOAT32_INPUTS = {"Resize": (2,)}
LARGEST = float(np.finfo(np.float16).max)


def to_float16(model: onnx.ModelProto) -> None:
    """Turn every float32 constant, cast and tensor of the graph into float16, in place.

    The frame enters as uint8 and is cast, the label map leaves as uint8: no further casts are needed. Weights beyond
    the largest float16 are clipped to it.
    """
    kept = {
        node.input[index]
        for node in model.graph.node
        for index in FLOAT32_INPUTS.get(node.op_type, ())
        if len(node.input) > index
    }
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            value = np.clip(numpy_helper.to_array(tensor), -LARGEST, LARGEST)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            is_float = attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT
            if is_float and kept.isdisjoint(node.output):
                value = np.clip(numpy_helper.to_array(attribute.t), -LARGEST, LARGEST).astype(np.float16)
                attribute.CopyFrom(helper.make_attribute(attribute.name, numpy_helper.from_array(value)))
    del model.graph.value_info[:]
    model.CopyFrom(onnx.shape_inference.infer_shapes(model, strict_mode=True))
