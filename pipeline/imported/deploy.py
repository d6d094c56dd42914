"""The deploy graph of an imported network: uint8 BGR frame in, uint8 label map out, like that of our own networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.export import graphs
from pipeline.imported.description import Description
from pipeline.imported.names import IMAGE, RESULT
from pipeline.imported.network import Network
from pipeline.quantization.graph import NORMALISER

#: Name of the normaliser's bias; quantisation finds the normaliser by the name of its weight.
BIAS = "normalise.bias"


def normaliser(description: Description) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """BGR 0..255 -> the network's image, as weight (3, 3, 1, 1) and bias (3,) of a 1x1 convolution."""
    weight, bias = (p.numpy() for p in graphs.normaliser(description.mean, description.std).state_dict().values())
    return weight if description.channel_order == "RGB" else weight[:, ::-1], bias


def build(network: Network, description: Description) -> tuple[onnx.ModelProto, tuple[int, int]]:
    """A graph of normalisation, the network, and the steps from its result to a label map.

    Logits are resized to the frame (bilinear, half-pixel centres) before the argmax, or before one channel is compared
    with the threshold; a label map keeps its size. Values that belong to no class become the ignored id.

    Args:
        description: ``network.description``, with a threshold if the result has one channel.

    Returns:
        the graph, and (height, width) of its label maps.
    """
    height, width = network.input_size
    weight, bias = normaliser(description)
    constants: dict[str, npt.NDArray[np.generic]] = {NORMALISER: weight, BIAS: bias}
    before = [
        _node("Cast", ["frames"], "pixels", to=TensorProto.FLOAT),  # first, as TensorRT cannot transpose uint8
        _node("Transpose", ["pixels"], "planes", perm=[0, 3, 1, 2]),
        _node("Conv", ["planes", NORMALISER, BIAS], IMAGE),
    ]
    after: list[onnx.NodeProto] = []

    def then(operator: str, inputs: list[str], result: str, **settings: Any) -> None:
        after.append(_node(operator, [after[-1].output[0] if after else RESULT, *inputs], result, **settings))

    size = network.form.size
    if network.form.channels and size != (height, width):
        size = (height, width)
        constants["size"] = np.array([1, network.form.channels, *size], np.int64)
        then("Resize", ["", "", "size"], "bigger", mode="linear")
    if network.form.channels > 1:
        then("ArgMax", [], "ids", axis=1, keepdims=0)
    elif network.form.channels == 1:
        assert description.threshold is not None
        constants["channel"] = np.array([1], np.int64)
        constants["threshold"] = np.array(description.threshold, np.float32)
        then("Squeeze", ["channel"], "scores")
        then("Greater", ["threshold"], "ids")
    elif description.ids is not None:
        classes = description.classes_of
        table = [classes.get(value, description.labels.ignore_index) for value in range(max(classes) + 2)]
        integer = _integer(network.model)
        constants["lowest"], constants["highest"] = np.array(-1, integer), np.array(len(table) - 1, integer)
        constants["table"] = np.array(table, np.int32)  # the last entry, also as -1: out of range
        then("Clip", ["lowest", "highest"], "values")
        after.append(_node("Gather", ["table", "values"], "ids"))
    then("Cast", [], "labels", to=TensorProto.UINT8)
    graph = helper.make_graph(
        [*before, *network.model.graph.node, *after],
        "deploy",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, [1, height, width, 3])],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, *size])],
        [
            *(numpy_helper.from_array(value, name) for name, value in constants.items()),
            *network.model.graph.initializer,
        ],
    )
    model = helper.make_model(
        graph,
        opset_imports=list(network.model.opset_import),
        ir_version=network.model.ir_version,
        producer_name="segpress",
    )
    onnx.checker.check_model(model, full_check=True)
    return model, size


def _integer(model: onnx.ModelProto) -> type[np.int32] | type[np.int64]:
    """The integer type of a network's label map."""
    wide = model.graph.output[0].type.tensor_type.elem_type == TensorProto.INT64
    return np.int64 if wide else np.int32


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], name=output, **attributes)
