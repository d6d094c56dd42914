"""The first layer on pixels: equal results inside, nearly equal ones at the border, and one kernel less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from pipeline.quantization import cpu
from pipeline.quantization import graph as graphs
from pipeline.quantization.pixels import fold_normaliser
from pipeline.quantization.saturation import scales_of


def loaded(model: onnx.ModelProto) -> graphs.Graph:
    return graphs.Graph(onnx.shape_inference.infer_shapes(model))


def first_layer(**attributes: Any) -> Callable[[Any], None]:
    def fill(net: Any) -> None:
        net.normaliser = True
        weight, bias = net.weight("a.w", 8, 3, 3, 3), net.weight("a.b", 8)
        net.add("Conv", ["x", weight, bias], "a", **attributes)
        net.add("Relu", ["a"], "a_relu")
        net.conv("a_relu", "logits", 8, 16, kernel=1)

    return fill


PADS = {
    "around": {"pads": [1, 1, 1, 1]},
    "none": {},
    "below and right": {"pads": [0, 0, 1, 1], "strides": [2, 2]},
    "uneven": {"pads": [2, 0, 1, 3]},
}


@pytest.mark.parametrize("pads", PADS)
def test_folding_changes_nothing_but_the_border(make: Any, evaluate: Any, frames: Any, pads: str) -> None:
    """With weights that 8 bits hold exactly."""
    graph = loaded(make(None, first_layer(**PADS[pads])))
    set_weight(graph, "a.w", rounded_on_pixels(graph))
    folded = fold_normaliser(graph)
    onnx.checker.check_model(folded.model, full_check=True)
    assert folded.normaliser is None and graph.normaliser is not None
    for frame in frames:
        before, after = (evaluate(g.model, frame, ["a"])["a"] for g in (graph, folded))
        inside = (slice(None), slice(None), slice(3, -3), slice(3, -3))
        np.testing.assert_allclose(before[inside], after[inside], atol=1e-4)
        half_a_level = 0.5 / 40 * np.abs(graph_weight(graph)).sum(axis=(1, 2, 3)).max()  # of the coarsest channel
        assert np.abs(before - after).max() <= half_a_level + 1e-4


@pytest.mark.parametrize("pads", PADS)
def test_rounded_weights_are_exact_for_the_mean_colour(make: Any, evaluate: Any, pads: str) -> None:
    """The bias fits the rounded weights."""
    graph = loaded(make(None, first_layer(**PADS[pads])))
    folded = fold_normaliser(graph)
    on_pixels = onnx.numpy_helper.to_array(folded.initializers["a.w_on_pixels"])
    scale = scales_of(on_pixels, 0, paired=True).reshape(-1, 1, 1, 1)
    set_weight(folded, "a.w_on_pixels", np.rint(on_pixels / scale) * scale)
    frame = np.full((16, 16, 3), (100, 75, 128), np.uint8)  # 0 after the normaliser, see below
    before, after = (evaluate(g.model, frame, ["a"])["a"] for g in (graph, folded))
    np.testing.assert_allclose(before, after, atol=1e-4)


def rounded_on_pixels(graph: graphs.Graph) -> Any:
    """The first layer's weight, rounded after the normaliser's factors were applied, so that 8 bits hold it exactly."""
    factors = np.float64([1 / 64, 1 / 50, 1 / 40]).reshape(1, 3, 1, 1)
    weight = graph_weight(graph) * factors
    scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 60
    levels = np.rint(weight / scale)
    levels[:, 1, 0, 0] = 127  # the one weight of its channel with 8 bits
    levels[:, 0, 0, 0], levels[:, 2, 0, 0] = 0, 0
    return levels * scale / factors


def set_weight(graph: graphs.Graph, name: str, value: Any) -> None:
    graph.initializers[name].CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float32), name))


def graph_weight(graph: graphs.Graph) -> Any:
    return onnx.numpy_helper.to_array(graph.initializers["a.w"])


def test_padding_is_the_mean_colour(make: Any) -> None:
    folded = fold_normaliser(loaded(make(None, first_layer(pads=[1, 1, 1, 1]))))
    above = onnx.numpy_helper.to_array(folded.initializers["border_above"])
    # the normaliser of the fixture: scale (1/64, 1/50, 1/40), shift (-2, -1.5, -2.5), channels reversed
    assert above.shape == (1, 1, 16, 3) and above[0, 0, 0].tolist() == [100, 75, 128]
    assert onnx.numpy_helper.to_array(folded.initializers["border_left"]).shape == (1, 18, 1, 3)


@pytest.mark.parametrize(
    "attributes", [{"auto_pad": "SAME_UPPER"}, {"group": 3, "pads": [1, 1, 1, 1]}], ids=["auto_pad", "grouped"]
)
def test_other_first_layers_keep_the_normaliser(make: Any, attributes: dict[str, Any]) -> None:
    def fill(net: Any) -> None:
        net.normaliser = True
        weight = net.weight("a.w", 9, 3 // attributes.get("group", 1), 3, 3)
        net.add("Conv", ["x", weight], "a", **attributes)
        net.conv("a", "logits", 9, 16, kernel=1)

    graph = loaded(make(None, fill))
    assert fold_normaliser(graph) is graph


def test_two_readers_keep_the_normaliser(make: Any) -> None:
    graph = loaded(make("normalised_twice"))
    assert fold_normaliser(graph) is graph
    ranges = dict.fromkeys(("x", "a", "b", "sum", "logits"), (-4.0, 4.0))
    model = cpu.place(graph, ranges)
    reader = next(node for node in model.graph.node if "frames" in node.input)
    assert reader.op_type == "Transpose"  # the frame's own bytes
    assert "normalise.weight_quantized" in {tensor.name for tensor in model.graph.initializer}
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("signed", [False, True])
def test_the_frame_itself_is_the_quantised_input(student: Any, signed: bool) -> None:
    graph = graphs.load(str(student.onnx.file("fp32.onnx")))
    ranges = dict.fromkeys(graph.float_activations(), (-4.0, 4.0))
    model = cpu.place(graph, ranges, signed=signed)
    operators = [node.op_type for node in model.graph.node]
    assert ("Cast" in operators[:-1]) == signed  # uint8 needs none but that of the label map
    scale = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    first = graph.layers[0]
    reader = next(node for node in model.graph.node if node.name == first.name)
    dequantise = next(node for node in model.graph.node if reader.input[0] in node.output)
    assert float(scale[dequantise.input[1]]) == 1.0
    assert int(scale[dequantise.input[2]]) == (-128 if signed else 0)


def test_a_first_layer_in_float_keeps_the_normaliser_in_float(student: Any) -> None:
    graph = graphs.load(str(student.onnx.file("fp32.onnx")))
    ranges = dict.fromkeys(graph.float_activations(), (-4.0, 4.0))
    model = cpu.place(graph, ranges, float_nodes={graph.layers[0].name})
    by_name = {node.name: node for node in model.graph.node}
    assert by_name[graph.layers[0].name].input[0] == graph.normaliser.output[0]
    assert by_name[graph.normaliser.name].input[1] == "normalise.weight"
