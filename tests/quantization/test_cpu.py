"""The CPU file: uint8 activations, int8 weights per channel, and patterns that ONNX Runtime fuses."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from pipeline.quantization import calibration, cpu
from pipeline.quantization import graph as graphs
from pipeline.quantization.ranges import choose_all


def written(
    calibrated: Any, write_int8: Any, name: str, folder: Path, *, float_head: bool
) -> tuple[onnx.ModelProto, Any, Any]:
    source, ranges = calibrated(name)
    write_int8(cpu, source, folder / "int8.onnx", ranges, float_head=float_head)
    model = onnx.load(folder / "int8.onnx")
    onnx.checker.check_model(model, full_check=True)
    return model, {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}, ranges


def optimised(file: Path, folder: Path) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx")


@pytest.mark.parametrize("name", ["residual", "concat", "depthwise", "clipped", "squeeze", "upsampled"])
def test_types_and_scales(calibrated: Any, write_int8: Any, tmp_path: Path, name: str) -> None:
    model, constants, ranges = written(calibrated, write_int8, name, tmp_path, float_head=False)
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert quantizers
    for node in quantizers:
        assert constants[node.input[2]].dtype == np.uint8
        assert constants[node.input[1]].ndim == 0
    scale = constants[next(node for node in quantizers if node.input[0] == "x").input[1]]
    low, high = ranges["x"]
    assert scale == pytest.approx((high - low) / 255, rel=1e-5)
    weights = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants]
    per_channel = [n for n in weights if constants[n.input[0]].ndim == 4]
    assert len(per_channel) == sum(node.op_type == "Conv" for node in model.graph.node)
    for node in per_channel:
        values, scales, zeros = (constants[name] for name in node.input)
        assert values.dtype == np.int8
        assert scales.shape == (values.shape[0],)
        assert not zeros.any()


def test_signed_activations_for_arm(calibrated: Any, evaluate: Any, frames: Any) -> None:
    """int8 with another zero-point computes the same values as uint8."""
    source, ranges = calibrated("normalised")
    graph = graphs.load(str(source))
    unsigned, signed = (cpu.place(graph, ranges, signed=choice) for choice in (False, True))
    for model, dtype in ((unsigned, np.uint8), (signed, np.int8)):
        constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        zeros = {constants[n.input[2]].dtype for n in model.graph.node if n.op_type == "QuantizeLinear"}
        assert zeros == {np.dtype(dtype)}
    for frame in frames:
        a, b = (next(iter(evaluate(model, frame, ["logits"]).values())) for model in (unsigned, signed))
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("float_nodes", [{"first"}, {"sum", "third"}])
def test_named_nodes_stay_in_float(calibrated: Any, float_nodes: set[str]) -> None:
    source, ranges = calibrated("residual")
    graph = graphs.load(str(source))
    before = graph.model.SerializeToString()
    model = cpu.place(graph, ranges, float_nodes=float_nodes)
    assert graph.model.SerializeToString() == before
    operators = {name: node.op_type for node in model.graph.node for name in node.output}
    for name in ("stem", "first", "second", "third", "fourth"):
        node = next(node for node in model.graph.node if node.name == name)
        assert (operators.get(node.input[1]) == "DequantizeLinear") == (name not in float_nodes), name


def test_onnx_runtime_fuses_the_student(student: Any, tmp_path: Path) -> None:
    float_layers = sum(n.op_type == "Conv" for n in onnx.load(student.onnx.file("fp32.onnx")).graph.node)
    kinds = Counter(n.op_type for n in optimised(student.int8.file("int8_cpu.onnx"), tmp_path).graph.node)
    assert kinds["QLinearConv"] == float_layers - 2  # all but the classifier; the normaliser is in the first layer
    assert kinds["Conv"] + kinds["FusedConv"] == 1
    assert student.int8.file("int8_cpu.onnx").stat().st_size < 0.33 * student.onnx.file("fp32.onnx").stat().st_size


@pytest.mark.parametrize("float_head", [True, False])
def test_the_classifier_is_float_when_asked(calibrated: Any, write_int8: Any, tmp_path: Path, float_head: bool) -> None:
    model, constants, _ = written(calibrated, write_int8, "depthwise", tmp_path, float_head=float_head)
    operators = {name: node.op_type for node in model.graph.node for name in node.output}
    classifier = next(node for node in model.graph.node if node.name == "logits")
    assert (classifier.input[1] in constants) == float_head
    assert (operators.get(classifier.input[1]) == "DequantizeLinear") == (not float_head)


@pytest.mark.parametrize("float_head", [True, False])
def test_before_and_after_the_network_nothing_is_quantized(
    calibrated: Any, write_int8: Any, tmp_path: Path, float_head: bool
) -> None:
    model, _, _ = written(calibrated, write_int8, "residual", tmp_path, float_head=float_head)
    operators = {name: node.op_type for node in model.graph.node for name in node.output}
    nodes = {node.name: node for node in model.graph.node}
    for name in ("planes", "scaled", "x", "ids", "labels"):
        assert operators.get(nodes[name].input[0]) != "DequantizeLinear", name


def test_the_normaliser_reads_the_pixels_in_integers(
    calibrated: Any, write_int8: Any, make: Any, frames: Any, evaluate: Any, tmp_path: Path
) -> None:
    model, constants, ranges = written(calibrated, write_int8, "normalised_twice", tmp_path, float_head=True)
    readers = {node.op_type for node in model.graph.node if "frames" in node.input}
    assert readers == {"Transpose"}
    assert [node.name for node in model.graph.node if node.op_type == "Cast"] == ["labels"]
    kinds = Counter(node.op_type for node in optimised(tmp_path / "int8.onnx", tmp_path).graph.node)
    assert kinds["QLinearConv"] == 3  # the normaliser, a and b
    low, high = ranges["x"]
    quantize = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "x")
    scale, zero = (float(constants[name]) for name in quantize.input[1:])
    for frame in frames:
        plain = evaluate(make("normalised_twice"), frame, ["x"])["x"]
        levels = evaluate(model, frame, [quantize.output[0]])[quantize.output[0]].astype(np.float64)
        assert np.abs((levels - zero) * scale - np.clip(plain, low, high)).max() <= 1.01 * scale


def test_pooling_matrices_stay_in_float(calibrated: Any, write_int8: Any, tmp_path: Path) -> None:
    model, constants, _ = written(calibrated, write_int8, "pooled", tmp_path, float_head=True)
    nodes = {node.name: node for node in model.graph.node}
    assert "rows" in nodes["by_rows"].input
    assert "columns" in nodes["bins"].input
    assert constants["rows"].dtype == constants["columns"].dtype == np.float32


@pytest.mark.parametrize(
    ("name", "least"),  # measured: 0.948, 0.948 and 0.934; the weights are random
    [("int8_cpu.onnx", 0.93), ("int8_arm.onnx", 0.93), ("int8_tensorrt.onnx", 0.92)],
)
def test_labels_are_those_of_the_float_network(student: Any, name: str, least: float) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    int8, fp32 = (
        onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for file in (student.int8.file(name), student.onnx.file("fp32.onnx"))
    )
    agreement = [
        float((int8.run(None, {"frames": f[None]})[0] == fp32.run(None, {"frames": f[None]})[0]).mean())
        for f in student.frames
    ]
    assert np.mean(agreement) > least
    facts = json.loads(int8.get_modelmeta().custom_metadata_map["segpress"])
    assert (facts["precision"], facts["classes"]) == ("int8", list("abcde"))
    assert facts["parents"]["onnx"] == student.onnx.hash


def attention(net: Any) -> None:
    """The product of two layers' results, as in attention, followed by a sum."""
    net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
    net.conv("a_relu", "key", 8, 8, kernel=1)
    net.conv("a_relu", "value", 8, 8, kernel=1)
    net.add("Softmax", [net.add("MatMul", ["key", "value"], "product")], "shares", axis=-1)
    net.add("Add", ["shares", "a_relu"], "sum")
    net.add("Add", ["sum", net.constant("offset", np.full((1, 8, 1, 1), 0.1, np.float32))], "moved")
    net.conv("moved", "logits", 8, 16, kernel=1)


def test_products_of_activations_stay_in_float(make: Any, tmp_path: Path) -> None:
    graph = graphs.Graph(onnx.shape_inference.infer_shapes(make(None, attention)))
    ranges = dict.fromkeys(graph.float_activations(), (-4.0, 4.0))
    model = cpu.place(graph, ranges)
    rounded = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert "product" not in rounded and {"a_relu", "sum", "moved"} <= rounded
    onnx.save(model, tmp_path / "int8.onnx")
    kernels = Counter(node.op_type for node in optimised(tmp_path / "int8.onnx", tmp_path).graph.node)
    assert kernels["QLinearMatMul"] == 0 and kernels["QLinearConv"] == 4


def test_sums_are_additions_of_activations(make: Any) -> None:
    graph = graphs.Graph(onnx.shape_inference.infer_shapes(make(None, attention)))
    assert [node.name for node in graph.sums] == ["sum"]
    ranges = dict.fromkeys(graph.float_activations(), (-4.0, 4.0))
    model = cpu.place(graph, ranges, float_nodes={"sum"})
    total = next(node for node in model.graph.node if node.name == "sum")
    assert "shares" in total.input


@pytest.mark.parametrize("kept", ["layers", "everything"])
def test_a_normaliser_that_cannot_be_folded_is_float_when_its_readers_are(
    make: Any, evaluate: Any, frames: Any, kept: str
) -> None:
    source = make("normalised_twice")
    graph = graphs.Graph(onnx.shape_inference.infer_shapes(source))
    ranges = dict.fromkeys(("x", "a", "b", "sum", "logits"), (-4.0, 4.0))
    everything = {node.name for node in graph.nodes}
    model = cpu.place(graph, ranges, float_nodes=everything if kept == "everything" else {n.name for n in graph.layers})
    assert "QuantizeLinear" not in {node.op_type for node in model.graph.node}
    expected, computed = (evaluate(m, frames[0], ["logits"])["logits"] for m in (source, model))
    np.testing.assert_array_equal(expected, computed)


def test_a_single_int8_layer_after_a_normaliser_that_cannot_be_folded(make: Any, evaluate: Any, frames: Any) -> None:
    source = make("normalised_twice")
    graph = graphs.Graph(onnx.shape_inference.infer_shapes(source))
    ranges = dict.fromkeys(("x", "a", "b", "sum", "logits"), (-4.0, 4.0))
    model = cpu.place(graph, ranges, float_nodes={node.name for node in graph.nodes} - {"a"})
    rounded = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert "x" in rounded and "planes" not in rounded
    expected, computed = (evaluate(m, frames[0], ["b", "a"]) for m in (source, model))
    np.testing.assert_allclose(expected["a"], computed["a"], atol=0.2)
    assert not np.array_equal(expected["a"], computed["a"])


def clipping(operator: str, *limits: float) -> Any:
    """A convolution followed by ``operator``, whose result the classifier reads."""

    def fill(net: Any) -> None:
        constants = [net.constant(f"limit{i}", np.float32(limit)) for i, limit in enumerate(limits)]
        net.add(operator, [net.conv("x", "a", 3, 8), *constants], "cut")
        net.conv("cut", "logits", 8, 16, kernel=1)

    return fill


@pytest.mark.parametrize("limits", [(0.5, 2.0), (-3.0, -1.0), (0.0, 6.0), (-0.5, 1.5)])
@pytest.mark.parametrize("signed", [False, True])
def test_a_clip_still_clips(
    make: Any, evaluate: Any, frames: Any, tmp_path: Path, limits: tuple[float, float], signed: bool
) -> None:
    """Also in fused kernels, and if 0 is outside the limits: ranges contain 0, and ONNX Runtime clips to the range."""
    source = make(None, clipping("Clip", *limits))
    onnx.save(source, tmp_path / "fp32.onnx")
    statistics = calibration.collect(tmp_path / "fp32.onnx", frames)
    graph = graphs.load(str(tmp_path / "fp32.onnx"))
    ranges = choose_all(statistics.histograms, method="minmax", percentile=99.0)
    model = cpu.place(graph, ranges, signed=signed)
    assert ("Clip" in {node.op_type for node in model.graph.node}) == (limits[0] > 0 or limits[1] < 0)
    reader = next(node for node in model.graph.node if node.name == "logits").input[0]
    scale = (max(limits[1], 0) - min(limits[0], 0)) / 255
    onnx.save(model, tmp_path / "int8.onnx")
    for frame in frames:
        cut = evaluate(model, frame, [reader])[reader]
        assert cut.min() >= limits[0] - scale and cut.max() <= limits[1] + scale
        expected, exact = (evaluate(m, frame, ["logits"])["logits"] for m in (source, model))
        assert np.abs(expected - exact).max() < 0.2
        fused = onnxruntime.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
        assert (
            fused.run(None, {"frames": frame[None]})[0] == evaluate(model, frame, ["labels"])["labels"]
        ).mean() > 0.98


def test_limits_of_a_clip_in_every_form(make: Any) -> None:
    """As inputs, as attributes before opset 11, one of them missing, or unknown."""
    graph = graphs.Graph(make(None, clipping("Clip", 0.5, 2.0)))
    node = next(node for node in graph.nodes if node.op_type == "Clip")
    assert cpu.clip_limits(graph, node) == (0.5, 2.0)
    assert cpu.clip_limits(graph, onnx.helper.make_node("Clip", ["a", "", "limit1"], ["y"])) == (-np.inf, 2.0)
    assert cpu.clip_limits(graph, onnx.helper.make_node("Clip", ["a"], ["y"], min=1.0, max=3.0)) == (1.0, 3.0)
    for attribute in ({"value_float": 0.25}, {"value": numpy_helper.from_array(np.float32(0.25))}):
        constant = onnx.helper.make_node("Constant", [], ["quarter"], **attribute)
        other = graph.copy()
        other.model.graph.node.append(constant)
        assert cpu.clip_limits(other, onnx.helper.make_node("Clip", ["a", "quarter"], ["y"])) == (0.25, np.inf)
    unknown = onnx.helper.make_node("Clip", ["a", "computed"], ["y"])
    assert cpu.clip_limits(graph, unknown) is None
    assert cpu.cuts_range(graph, unknown, {"y": (0.0, 1.0)})


def test_products_that_no_int8_kernel_computes_stay_in_float(make: Any, tmp_path: Path) -> None:
    """A constant on the left, or a stack of matrices: there is no scale per output channel."""

    def fill(net: Any) -> None:
        net.add("Relu", [net.conv("x", "a", 3, 16)], "a_relu")
        net.add("MatMul", [net.weight("left", 16, 16), "a_relu"], "turned")
        net.add("MatMul", ["turned", net.weight("stack", 1, 16, 16, 16)], "stacked")
        net.conv("stacked", "logits", 16, 16, kernel=1)

    graph = graphs.Graph(onnx.shape_inference.infer_shapes(make(None, fill)))
    model = cpu.place(graph, dict.fromkeys(graph.float_activations(), (-4.0, 4.0)))
    nodes = {node.name: node for node in model.graph.node}
    assert nodes["turned"].input[0] == "left" and nodes["stacked"].input[1] == "stack"
    assert {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"} >= {"a", "stacked"}
