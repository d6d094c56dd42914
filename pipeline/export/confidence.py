"""The second output of a deploy graph: how confident the network is of each label."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import UserError

#: Name of the output, as :mod:`pipeline.runtimes` has it.
CONFIDENCE = "confidence"
#: What the network gives: logits; probabilities that add up to 1; or a probability for each class by itself.
Scores = Literal["logits", "probabilities"]
#: Before the names of all nodes, tensors and constants that are added here.
PREFIX = "confidence_"
#: Probability 1 as uint8.
ONE = 255.0


def add_confidence(model: onnx.ModelProto, scores: Scores = "logits") -> None:
    """Add the output ``confidence`` to a float deploy graph, in place; its labels are computed as before.

    Confidence is the probability of the label, 0 to 1 as 0 to 255: of the softmax of the upsampled logits, or, where
    one channel tells two classes apart, of the sigmoid. Every node reads what ArgMax (or the comparison with the
    threshold) reads, so the value belongs to that label, also at the borders of classes.

    Args:
        model: uint8 frames in, uint8 label maps out; ends with ArgMax or Greater, and a Cast. Changed only on success.
        scores: whether the network gives logits or probabilities.

    Raises:
        UserError: the graph takes its labels from a map of ids, which has no probabilities.
    """
    graph = model.graph
    labels = graph.output[0]
    producers = {name: node for node in graph.node for name in node.output}
    cast = producers[labels.name]
    chooser = producers.get(cast.input[0])
    if chooser is None or chooser.op_type not in ("ArgMax", "Greater"):
        raise UserError(
            "confidence: the network gives a map of class ids, without probabilities; export it with logits as its "
            "output, or leave `confidence` out"
        )
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Any] = {"axis": np.array([1], np.int64), "one": np.array(ONE, np.float32)}

    def then(operator: str, inputs: list[str], result: str, **settings: Any) -> str:
        name = result if result == CONFIDENCE else PREFIX + result
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **settings))
        return name

    given = chooser.input[0]
    if chooser.op_type == "Greater":
        constants["unit"] = np.array(1, np.float32)
        second = given if scores == "probabilities" else then("Sigmoid", [given], "second")
        first = then("Sub", [PREFIX + "unit", second], "first")
        probability = then("Where", [chooser.output[0], second, first], "probability")
        level = then("Mul", [probability, PREFIX + "one"], "level")
    elif scores == "probabilities":
        probability = then("ReduceMax", [given, PREFIX + "axis"], "probability", keepdims=0)
        level = then("Mul", [probability, PREFIX + "one"], "level")
    else:  # 1 / sum(exp(x - max)): no Softmax, which ONNX Runtime computes slowly along this axis
        highest = then("ReduceMax", [given, PREFIX + "axis"], "highest", keepdims=1)
        behind = then("Sub", [given, highest], "behind")
        shares = then("Exp", [behind], "shares")
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
