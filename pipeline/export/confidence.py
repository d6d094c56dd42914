"""The second output of a deploy graph: how confident the network is of each label."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import UserError

#: Name of the output, the same as in :mod:`pipeline.runtimes`.
CONFIDENCE = "confidence"
#: The network's output: logits, or probabilities (which sum to 1, or one independent probability per class).
Scores = Literal["logits", "probabilities"]
#: Prefix of the names of all nodes, tensors and constants that this module adds.
PREFIX = "confidence_"
#: Probability 1 as uint8.
ONE = 255.0


def add_confidence(model: onnx.ModelProto, scores: Scores = "logits") -> None:
    """Add the output ``confidence`` to a float deploy graph, in place; its labels do not change.

    Confidence is the probability of the label, 0..1 stored as 0..255: the softmax of the upsampled logits, or the
    sigmoid where one channel separates two classes. The new nodes read the same tensor as ArgMax (or the comparison
    with the threshold), so the value always belongs to the label of its pixel, also at the borders of classes.

    Args:
        model: uint8 frames in, uint8 label maps out; it ends with ArgMax or Greater, then Cast. After an error it is
            unchanged.
        scores: whether the network computes logits or probabilities.

    Raises:
        UserError: the network's output is a map of class ids, which has no probabilities.
    """
    graph = model.graph
    labels = graph.output[0]
    producers = {name: node for node in graph.node for name in node.output}
    cast = producers[labels.name]
    chooser = producers.get(cast.input[0])
    if chooser is None or chooser.op_type not in ("ArgMax", "Greater"):
        raise UserError(
            "confidence: the network's output is a map of class ids, which has no probabilities; export the network "
            "with logits as its output, or leave `confidence` out"
        )
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Any] = {"axis": np.array([1], np.int64), "one": np.array(ONE, np.float32)}

    def then(operator: str, inputs: list[str], result: str, **settings: Any) -> str:
        name = result if result == CONFIDENCE else PREFIX + result
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **settings))
        return name

    values = chooser.input[0]  # logits or probabilities
    if chooser.op_type == "Greater":
        constants["unit"] = np.array(1, np.float32)
        second = values if scores == "probabilities" else then("Sigmoid", [values], "second")
        first = then("Sub", [PREFIX + "unit", second], "first")
        probability = then("Where", [chooser.output[0], second, first], "probability")
        level = then("Mul", [probability, PREFIX + "one"], "level")
    elif scores == "probabilities":
        probability = then("ReduceMax", [values, PREFIX + "axis"], "probability", keepdims=0)
        level = then("Mul", [probability, PREFIX + "one"], "level")
    else:  # 1 / sum(exp(x - max)) instead of Softmax, which is slow along this axis in ONNX Runtime
        highest = then("ReduceMax", [values, PREFIX + "axis"], "highest", keepdims=1)
        difference = then("Sub", [values, highest], "behind")
        shares = then("Exp", [difference], "shares")
        total = then("ReduceSum", [shares, PREFIX + "axis"], "total", keepdims=0)
        level = then("Div", [PREFIX + "one", total], "level")
    whole = then("Round", [level], "whole")
    then("Cast", [whole], CONFIDENCE, to=TensorProto.UINT8)
    used = {name for node in nodes for name in node.input}
    graph.node.extend(nodes)
    graph.initializer.extend(
        numpy_helper.from_array(value, PREFIX + name) for name, value in constants.items() if PREFIX + name in used
    )
    output = onnx.ValueInfoProto()
    output.CopyFrom(labels)
    output.name = CONFIDENCE
    graph.output.append(output)
