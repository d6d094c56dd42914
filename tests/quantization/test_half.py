"""float16 files: what stays in float32, what the rest computes in real float16, and that both are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline import artifact
from pipeline.quantization import calibration, half_limits, quantize, tensorrt
from pipeline.quantization import graph as graphs
from pipeline.quantization.half import element_types, to_float16
from pipeline.quantization.half_rounding import rounded
from pipeline.quantization.ranges import choose_all
from pipeline.quantization.tensorrt_release import release

Fill = Callable[[Any], None]


def scaled_up_and_down(net: Any) -> None:
    """Activations of 5e5 between two factors, as networks without normalisation have them."""
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
    """Which nodes of a network stay in float32; checks that the file is valid and computes the same."""
    model = make(None, fill)
    half, kept = half_limits.in_float16(model, frames)
    onnx.checker.check_model(half, full_check=True)
    assert (labels(rounded(half), frames) == labels(model, frames)).mean() > 0.97
    return kept


def test_rounded_graphs_give_what_numpy_gives_in_float16(make: Any, frames: Any, evaluate: Any) -> None:
    """ONNX's reference evaluator computes in float16 and shares no code with ONNX Runtime: infinities are equal."""
    half = unprotected(make(None, scaled_up_and_down))
    names = ["a_relu", "large", "b_relu", "small", "c_relu", "logits"]
    for frame in frames:
        got = evaluate(rounded(half), frame, names)
        watched = copied(half)
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        with np.errstate(all="ignore"):
            expected = dict(zip(names, ReferenceEvaluator(watched).run(names, {"frames": frame[None]}), strict=True))
        assert np.isinf(expected["large"]).mean() > 0.1
        for name in ("a_relu", "large"):
            wanted = expected[name].astype(np.float32)
            assert np.array_equal(np.isinf(got[name]), np.isinf(wanted)), name
            finite = np.isfinite(wanted)
            np.testing.assert_allclose(got[name][finite], wanted[finite], atol=np.abs(wanted[finite]).max() * 2**-9)
        assert np.array_equal(np.isnan(got["logits"]), np.isnan(expected["logits"]))


def test_overflow_shows_in_float16_and_not_on_the_cpu(make: Any, frames: Any) -> None:
    model = make(None, scaled_up_and_down)
    half = unprotected(model)
    expected = labels(model, frames)
    assert (labels(half, frames) == expected).mean() > 0.99  # ONNX Runtime computes it in float32
    assert (labels(rounded(half), frames) == expected).mean() < 0.7


def test_large_tensors_stay_in_float32(make: Any, frames: Any) -> None:
    model = make(None, scaled_up_and_down)
    half, kept = half_limits.in_float16(model, frames)
    onnx.checker.check_model(half, full_check=True)
    assert list(kept) == ["large", "b", "b_relu", "small"]
    assert kept["large"].startswith("'large' reaches ")
    kinds = element_types(half)
    assert {kinds[name] for name in ("large", "b", "b_relu", "small")} == {TensorProto.FLOAT}
    assert {kinds[name] for name in ("x", "a", "c", "logits", "up")} - {TensorProto.FLOAT} == {TensorProto.FLOAT16}
    casts = [node for node in half.graph.node if node.op_type == "Cast" and node.name not in ("pixels", "labels")]
    assert [node.input[0] for node in casts] == ["a_relu", "small"]
    assert (labels(rounded(half), frames) == labels(model, frames)).mean() > 0.98
    reference = np.stack([ReferenceEvaluator(half).run(None, {"frames": frame[None]})[0][0] for frame in frames])
    assert (reference == labels(model, frames)).mean() > 0.98


def test_a_margin_is_left(make: Any, frames: Any) -> None:
    """Half of the largest float16 is the limit: other frames may reach more."""

    def fill(net: Any, peak: float) -> None:
        net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
        net.add("Mul", ["a_relu", net.constant("grow", np.float32(peak))], "large")
        net.add("Mul", ["large", net.constant("shrink", np.float32(1 / peak))], "small")
        net.conv("small", "logits", 8, 16)

    peak = half_limits.measure(make(None, lambda net: fill(net, 1.0)), frames).largest["a_relu"]
    assert kept_in(make, frames, lambda net: fill(net, 32000 / peak)) == {}
    assert list(kept_in(make, frames, lambda net: fill(net, 33000 / peak))) == ["large", "small"]


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [("ReduceMean", {"keepdims": 1}), ("GlobalAveragePool", {}), ("AveragePool", {"kernel_shape": [16, 16]})],
)
def test_sums_that_overflow_before_the_division(make: Any, frames: Any, operator: str, attributes: Any) -> None:
    """256 values of up to 2000 have a mean that float16 holds, and a sum that it does not."""

    def fill(net: Any, factor: float) -> None:
        net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
        net.add("Mul", ["a_relu", net.constant("grow", np.float32(factor))], "more")
        axes = [net.constant("axes", np.int64([2, 3]))] if operator == "ReduceMean" else []
        net.add(operator, ["more", *axes], "mean", **attributes)
        net.add("Add", ["more", "mean"], "sum")
        net.conv("sum", "logits", 8, 16)

    assert kept_in(make, frames, lambda net: fill(net, 1.0)) == {}
    kept = kept_in(make, frames, lambda net: fill(net, 700.0))
    assert list(kept) == ["mean"] and kept["mean"].startswith("its terms add up to ")


@pytest.mark.parametrize("operator", ["InstanceNormalization", "LayerNormalization"])
def test_normalisation_of_large_or_small_values(make: Any, frames: Any, operator: str) -> None:
    """Values of 700 fit into float16, and their squares do not; those of 1e-4 are lost."""

    def fill(net: Any, factor: float) -> None:
        net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
        net.add("Mul", ["a_relu", net.constant("factor", np.float32(factor))], "times")
        size = 8 if operator == "InstanceNormalization" else 16  # of channels, or of rows
        gain = net.constant("gain", np.ones(size, np.float32))
        offset = net.constant("offset", np.zeros(size, np.float32))
        net.add(operator, ["times", gain, offset], "normalised", epsilon=1e-9)
        net.conv("normalised", "logits", 8, 16)

    assert kept_in(make, frames, lambda net: fill(net, 1.0)) == {}
    for factor in (200.0, 1e-4):
        kept = kept_in(make, frames, lambda net, factor=factor: fill(net, factor))
        assert "squares of 'times' reach" in kept["normalised"]
        half, _ = half_limits.in_float16(make(None, lambda net, factor=factor: fill(net, factor)), frames)
        reference = np.stack([ReferenceEvaluator(half).run(None, {"frames": frame[None]})[0][0] for frame in frames])
        expected = labels(make(None, lambda net, factor=factor: fill(net, factor)), frames)
        assert (reference == expected).mean() > 0.97


def test_terms_that_cancel_are_added_up_by_magnitude(make: Any, frames: Any) -> None:
    def fill(net: Any) -> None:
        net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
        net.add("Concat", ["a_relu", "a_relu"], "twice", axis=1)
        weight = np.zeros((16, 16, 1, 1), np.float32)
        weight[:, :8, 0, 0] = 2e4 * np.eye(16, 8)
        weight[:, 8:, 0, 0] = -weight[:, :8, 0, 0]
        net.add("Conv", ["twice", net.constant("w", weight + np.float32(0.1))], "cancelled")
        net.conv("cancelled", "logits", 16, 16)

    assert list(kept_in(make, frames, fill)) == ["cancelled"]


def test_a_variance_with_a_small_epsilon(make: Any, frames: Any) -> None:
    """Layer normalisation as exporters write it: 1e-12 is zero in float16, and a flat channel is divided by it."""

    def fill(net: Any) -> None:
        net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
        mask = np.ones((1, 8, 1, 1), np.float32)
        mask[0, 3] = 0  # a dead channel: its variance is 0
        net.add("Mul", ["a_relu", net.constant("mask", mask)], "masked")
        axes = net.constant("axes", np.int64([2, 3]))
        net.add("ReduceMean", ["masked", axes], "mean")
        net.add("Sub", ["masked", "mean"], "centred")
        net.add("Pow", ["centred", net.constant("two", np.float32(2))], "squares")
        net.add("ReduceMean", ["squares", axes], "variance")
        net.add("Add", ["variance", net.constant("epsilon", np.float32(1e-12))], "positive")
        net.add("Sqrt", ["positive"], "deviation")
        net.add("Div", ["centred", "deviation"], "normalised")
        net.conv("normalised", "logits", 8, 16)

    assert list(kept_in(make, frames, fill)) == ["positive", "deviation", "normalised"]
    model = make(None, fill)
    assert (labels(rounded(unprotected(model)), frames) == labels(model, frames)).mean() < 0.5  # 0 / 0


def test_constants_that_float16_cannot_hold(make: Any, frames: Any) -> None:
    def fill(net: Any) -> None:
        net.conv("x", "a", 3, 8)
        net.weights["a.w"] *= np.float32(1e-7)  # below the smallest float16
        net.weights["a.b"] *= np.float32(1e-7)
        net.add("Mul", ["a", net.constant("grow", np.float32(1e7))], "b")
        net.add("Clip", ["b", "", net.constant("no_bound", np.float32(3.4e38))], "c")
        net.add("Add", ["c", net.constant("mask", np.float32([0, -np.inf]).repeat(8)[None, :8, None, None])], "d")
        net.conv("d", "logits", 8, 16)

    kept = kept_in(make, frames, fill)
    assert set(kept) == {"a", "b"}
    model, _ = half_limits.in_float16(make(None, fill), frames)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert stored["grow"] == np.float32(1e7) and stored["a.w"].dtype == np.float32
    assert stored["no_bound"] == np.finfo(np.float16).max and stored["no_bound"].dtype == np.float16


def test_small_values_that_make_no_difference_may_be_lost(make: Any, frames: Any, placed: Any) -> None:
    """A branch whose weights have decayed to 1e-20, added to one that is alive."""

    def fill(net: Any, factor: float, gain: float) -> None:
        net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
        net.conv("a_relu", "dead", 8, 8)
        for name in ("dead.w", "dead.b"):
            net.weights[name] *= np.float32(factor)
        net.add("Mul", ["dead", net.constant("gain", np.float32(gain))], "amplified")
        net.add("Add", ["a_relu", "amplified"], "sum")
        net.conv("sum", "logits", 8, 16)

    assert kept_in(make, frames, lambda net: fill(net, 1e-20, 1.0)) == {}
    assert {"dead", "amplified"} <= kept_in(make, frames, lambda net: fill(net, 1e-10, 1e10)).keys()
    _, int8, _ = placed(lambda net: fill(net, 1e-20, 1.0))
    assert read_types(int8, "dead")[:2] == ["FLOAT16 dq", "FLOAT16 dq"]


def test_what_onnx_wants_in_float32_and_what_is_read_in_both_types(make: Any, frames: Any) -> None:
    """Scales of Resize, Range (which has no float16), Constant nodes, and one constant for two nodes of two types."""

    def fill(net: Any) -> None:
        net.add("Relu", [net.conv("x", "a", 3, 8, strides=[2, 2])], "a_relu")
        twice = numpy_helper.from_array(np.float32([1, 1, 2, 2]))
        net.add("Resize", ["a_relu", "", net.add("Constant", [], "twice", value=twice)], "b", mode="linear")
        factor = net.add("Constant", [], "factor", value_float=3e4)
        net.add("Div", [net.add("Mul", ["b", factor], "large"), factor], "c")
        ends = [net.constant(name, np.float32(value)) for name, value in (("from", 0), ("to", 16), ("step", 1))]
        net.add("Range", ends, "columns")
        net.add("Mul", ["columns", net.constant("slope", np.float32(0.01))], "ramp")
        net.add("Add", [net.add("Add", ["c", "ramp"], "d"), net.add("Sqrt", [factor], "root")], "e")
        net.conv("e", "logits", 8, 16)

    model = make(None, fill)
    assert list(kept_in(make, frames, fill)) == ["large", "c"]
    half, _ = half_limits.in_float16(model, frames)
    kinds = element_types(half)
    assert kinds["factor"] == kinds["columns"] == kinds["twice"] == TensorProto.FLOAT
    assert kinds["factor_float16"] == kinds["ramp"] == kinds["root"] == TensorProto.FLOAT16
    assert "Constant" not in {node.op_type for node in half.graph.node}


@pytest.fixture
def placed(make: Any, frames: Any, tmp_path: Path, calibrated: Any) -> Callable[..., Any]:
    """``placed(fill)`` -> (float graph, INT8 graph for TensorRT, the same to be run on a CPU)."""

    def build(fill: Fill) -> tuple[onnx.ModelProto, onnx.ModelProto, onnx.ModelProto]:
        model = make(None, fill)
        onnx.save(model, tmp_path / "float.onnx")
        graph = graphs.load(str(tmp_path / "float.onnx"))
        found = calibration.collect(tmp_path / "float.onnx", frames)
        ranges = choose_all(found.histograms, method="minmax", percentile=99.0)
        kept = half_limits.float32_nodes(model, half_limits.measure(model, frames))
        options = {"float_nodes": {"logits"}, "float32": kept}
        return model, tensorrt.place(graph, ranges, **options), tensorrt.simulate(graph, ranges, **options)

    return build


def test_calibration_frames_that_reach_more_than_those_of_the_export(make: Any, frames: Any, tmp_path: Path) -> None:
    """The INT8 file keeps the nodes in float32. fp16.onnx is written already: that it overflows is recorded."""
    model = make(None, scaled_up_and_down)
    onnx.save(model, tmp_path / "fp32.onnx")
    half = unprotected(model)  # as if the frames of the export had been dark
    onnx.save(onnx.shape_inference.infer_shapes(half), tmp_path / "fp16.onnx")
    files = dict.fromkeys(("fp32.onnx", "fp16.onnx"), "")
    meta = {"files": files, "float16": {"float32_nodes": {"c": "another reason"}}}
    source = artifact.Artifact(path=tmp_path, meta=meta)
    statistics = calibration.collect(tmp_path / "fp32.onnx", frames)
    assert list(quantize.overflowing(source, statistics)) == ["b", "b_relu", "large"]
    assert set(quantize.spoiled(source, graphs.Graph(model), statistics)) == {"large", "b", "b_relu", "small", "c"}
    protected, _ = half_limits.in_float16(model, frames)
    onnx.save(protected, tmp_path / "fp16.onnx")
    assert quantize.overflowing(source, statistics) == {}


def read_types(model: onnx.ModelProto, node: str) -> list[str]:
    """Types of what a node reads, and whether it comes out of a Q/DQ."""
    kinds = element_types(onnx.shape_inference.infer_shapes(model))
    maker = {name: n.op_type for n in model.graph.node for name in n.output}
    (found,) = [n for n in model.graph.node if n.name == node]
    return [
        f"{TensorProto.DataType.Name(kinds[name])}{' dq' if maker.get(name) == 'DequantizeLinear' else ''}"
        for name in found.input
    ]


def test_the_int8_file_keeps_large_tensors_in_float32(placed: Any, frames: Any) -> None:
    model, int8, simulated = placed(scaled_up_and_down)
    onnx.checker.check_model(int8, full_check=True)
    assert read_types(int8, "b") == ["FLOAT dq", "FLOAT dq", "FLOAT"]
    assert read_types(int8, "c") == ["FLOAT16 dq", "FLOAT16 dq", "FLOAT16"]
    assert (labels(simulated, frames) == labels(model, frames)).mean() > 0.9
    assert (labels(int8, frames) == labels(simulated, frames)).mean() > 0.98


def test_layers_that_share_a_pair_share_its_type(placed: Any, frames: Any) -> None:
    def fill(net: Any) -> None:
        net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
        net.conv("a_relu", "b", 8, 8)
        net.conv("a_relu", "c", 8, 8)
        net.weights["b.w"] *= np.float32(1e5)
        net.add("Mul", ["b", net.constant("shrink", np.float32(1e-5 * 2**10))], "d")
        net.add("Mul", ["d", net.constant("further", np.float32(2**-10))], "e")
        net.add("Add", ["e", "c"], "sum")
        net.conv("sum", "logits", 8, 16)

    _, int8, _ = placed(fill)
    onnx.checker.check_model(int8, full_check=True)
    assert read_types(int8, "b") == read_types(int8, "c") == ["FLOAT dq", "FLOAT dq", "FLOAT"]


@pytest.mark.parametrize("factor", [1e-4, 1e-9])
def test_scales_too_small_for_float16_are_float32(placed: Any, frames: Any, factor: float) -> None:
    def fill(net: Any) -> None:
        net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
        net.add("Relu", [net.conv("a_relu", "b", 8, 8)], "b_relu")
        net.weights["b.w"] *= np.float32(factor)
        net.weights["b.b"] *= np.float32(factor)
        net.add("Mul", ["b_relu", net.constant("grow", np.float32(1 / factor))], "c")
        net.conv("c", "d", 8, 8)
        net.conv("d", "logits", 8, 16)

    model, int8, simulated = placed(fill)
    assert read_types(int8, "b") == ["FLOAT dq", "FLOAT dq", "FLOAT"]
    assert read_types(int8, "d") == ["FLOAT16 dq", "FLOAT16 dq", "FLOAT16"]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    assert np.abs(stored["b.w_int8"]).max(axis=(1, 2, 3)).tolist() == [127] * 8
    assert (labels(simulated, frames) == labels(model, frames)).mean() > 0.9


def test_a_released_layer_keeps_its_type(placed: Any, tmp_path: Path) -> None:
    _, int8, _ = placed(scaled_up_and_down)
    onnx.save(int8, tmp_path / "int8.onnx")
    assert release(tmp_path / "int8.onnx", tmp_path / "released.onnx", nodes=["b", "c"]) == ["b", "c"]
    released = onnx.load(tmp_path / "released.onnx")
    onnx.checker.check_model(released, full_check=True)
    assert read_types(released, "b") == ["FLOAT", "FLOAT", "FLOAT"]
    assert read_types(released, "c") == ["FLOAT16", "FLOAT16", "FLOAT16"]
