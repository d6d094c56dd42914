"""Which nodes are the network, which come before and after it, and the depth of a tensor: on graphs built by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import UserError
from pipeline.quantization import cpu
from pipeline.quantization.graph import Graph, in_float, load

BEFORE = ["pixels", "planes", "scaled", "x"]
AFTER = ["up", "ids", "labels"]
PATTERNS = [
    "one_conv", "residual", "projection", "concat", "depthwise", "clipped", "squeeze", "squeeze_mean", "upsampled",
    "other_layers", "pooled", "normalised",
]  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
def test_body_is_all_between_preprocessing_and_upsampling(make: Callable[..., onnx.ModelProto], name: str) -> None:
    model = make(name)
    names = [node.name for node in model.graph.node]
    before = [name for name in BEFORE if name in names]
    assert [node.name for node in Graph(model).body] == names[len(before) : -len(AFTER)]
    assert (names[: len(before)], names[-len(AFTER) :]) == (before, AFTER)
    assert Graph(model).classifier.name == "logits"


def test_the_normaliser_is_preprocessing(make: Callable[..., onnx.ModelProto]) -> None:
    normaliser = Graph(make("normalised")).normaliser
    assert normaliser is not None
    assert (normaliser.name, normaliser.op_type) == ("x", "Conv")
    assert not Graph(make("normalised")).is_weighted(normaliser)
    assert Graph(make("depthwise")).normaliser is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("residual", {}),
        ("clipped", {}),
        ("squeeze", {"Sigmoid": 1}),
        ("squeeze_mean", {"ReduceMean": 1, "Sigmoid": 1}),
        ("other_layers", {"ConvTranspose": 1}),  # reads 8 bits, and ONNX Runtime has no kernel for them
        ("pooled", {"MatMul": 2}),
    ],
)
def test_operators_that_a_cpu_file_leaves_in_float(
    make: Callable[..., onnx.ModelProto], name: str, expected: dict[str, int]
) -> None:
    graph = Graph(onnx.shape_inference.infer_shapes(make(name)))
    ranges = {name: (0.0 if "relu" in name else -3.0, 3.0) for name in graph.float_activations()}
    head = {graph.classifier.name}
    assert in_float(graph, cpu.place(graph, ranges), float_nodes=()) == expected
    assert in_float(graph, cpu.place(graph, ranges, float_nodes=head), float_nodes=head) == expected, "named as a layer"
    everything = {layer.name for layer in graph.layers}
    placed = cpu.place(graph, ranges, float_nodes=everything)
    kinds = {node.op_type for node in graph.body} - {"Conv", "ConvTranspose", "Gemm", "MatMul", "Flatten", "Reshape"}
    assert set(in_float(graph, placed, float_nodes=everything)) - {"MatMul"} == kinds


def longest(model: onnx.ModelProto, tensor: str) -> int:
    """Nodes on the longest path that ends in a tensor, by recursion over all paths."""
    for node in model.graph.node:
        if tensor in node.output:
            return 1 + max((longest(model, name) for name in node.input if name), default=0)
    return 0


@pytest.mark.parametrize("name", PATTERNS)
def test_depth_is_the_longest_path(make: Callable[..., onnx.ModelProto], name: str) -> None:
    model = make(name)
    depth = Graph(model).depth
    for node in model.graph.node:
        assert depth[node.output[0]] == longest(model, node.output[0])


def test_depth_of_a_residual_block(make: Callable[..., onnx.ModelProto]) -> None:
    depth = Graph(make("residual")).depth
    assert (depth["x"], depth["skip"], depth["second"], depth["sum"]) == (4, 6, 9, 10)


def test_a_branch_that_leads_to_no_weights_is_not_the_network(make: Callable[..., onnx.ModelProto]) -> None:
    def fill(net: Any) -> None:
        net.conv("x", "a", 3, 5)
        net.add("Relu", ["a"], "a_relu")
        net.conv("a_relu", "b", 5, 5)
        net.add("Sigmoid", ["a"], "aside")  # joins after the last convolution
        net.add("Mul", ["b", "aside"], "logits")

    graph = Graph(make(None, fill))
    assert [node.name for node in graph.body] == ["a", "a_relu", "b"]
    assert graph.classifier.name == "b"


def test_products_of_two_activations_have_no_weights(make: Callable[..., onnx.ModelProto]) -> None:
    def fill(net: Any) -> None:
        net.conv("x", "a", 3, 5)
        net.add("MatMul", ["a", "a"], "product")
        net.conv("product", "logits", 5, 5)

    graph = Graph(make(None, fill))
    assert [graph.is_weighted(node) for node in graph.body] == [True, False, True]


def test_float_activations(make: Callable[..., onnx.ModelProto], tmp_path: Any) -> None:
    onnx.save(make("squeeze_mean"), tmp_path / "g.onnx")
    activations = load(str(tmp_path / "g.onnx")).float_activations()
    assert activations == ["x", "a", "a_relu", "pooled", "gate", "gate_sigmoid", "gated", "logits"]


def test_a_graph_without_weights_is_refused() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    model = helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="r")], "g", [value], [out])
    )
    with pytest.raises(UserError, match="nothing to quantise"):
        _ = Graph(model).body


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(make: Callable[..., onnx.ModelProto], value: float) -> None:
    model = make("depthwise")
    graph = Graph(model)
    graph.weights_finite()
    for tensor in model.graph.initializer:
        if tensor.name == "deep.w":
            broken = numpy_helper.to_array(tensor).copy()
            broken[3, 0, 1, 1] = value
            tensor.CopyFrom(numpy_helper.from_array(broken, "deep.w"))
    with pytest.raises(UserError, match=r"'deep.w' holds NaN or infinity"):
        Graph(model).weights_finite()
