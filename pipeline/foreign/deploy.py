"""The deploy graph of a foreign network: uint8 BGR frame in, uint8 label map out, like that of our own networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.export import graphs
from pipeline.foreign.description import Description
from pipeline.foreign.network import IMAGE, RESULT, Network
from pipeline.quantization.graph import NORMALISER

#: Bias of the normaliser; its weight has the name by which quantisation knows it.
BIAS = "normalise.bias"


def normaliser(description: Description) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """BGR 0..255 -> the network's image, as weight (3, 3, 1, 1) and bias (3,) of a 1x1 convolution."""
    weight, bias = (p.numpy() for p in graphs.normaliser(description.mean, description.std).state_dict().values())
    return weight if description.channel_order == "RGB" else weight[:, ::-1], bias


def build(network: Network, description: Description) -> tuple[onnx.ModelProto, tuple[int, int]]:
    """Normalisation, the network, and what makes a label map of its result.

    Logits are brought to the size of the frame (bilinear, half-pixel centres) before the argmax; a label map keeps its
    size.

    Returns:
        the graph, and (height, width) of its label maps.
    """
    height, width = network.input_size
    weight, bias = normaliser(description)
    constants: dict[str, npt.NDArray[np.generic]] = {NORMALISER: weight, BIAS: bias}
    before = [
        _node("Cast", ["frames"], "pixels", to=TensorProto.FLOAT),  # before the transpose: TensorRT moves no uint8
        _node("Transpose", ["pixels"], "planes", perm=[0, 3, 1, 2]),
        _node("Conv", ["planes", NORMALISER, BIAS], IMAGE),
    ]
    after: list[onnx.NodeProto] = []
    last = RESULT
    if description.output == "logits":
        size = (height, width)
        if network.shape[2:] != size:
            constants["size"] = np.array([*network.shape[:2], *size], np.int64)
            after.append(_node("Resize", [last, "", "", "size"], "bigger", mode="linear"))
            last = "bigger"
        after.append(_node("ArgMax", [last], "ids", axis=1, keepdims=0))
        last = "ids"
    else:
        size = _map_size(network.shape)
        if network.shape != (1, *size):
            constants["shape"] = np.array([1, *size], np.int64)
            after.append(_node("Reshape", [last, "shape"], "ids"))
            last = "ids"
    after.append(_node("Cast", [last], "labels", to=TensorProto.UINT8))
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


def _map_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of a label map (1, h, w), (1, 1, h, w), (1, h, w, 1) or (h, w)."""
    trailing = len(shape) == 4 and shape[3] == 1 and shape[1] != 1
    height, width = shape[1:3] if trailing else shape[-2:]
    return height, width


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], name=output, **attributes)
