"""Which nodes of a float16 file stay in float32, and that the rest computes the same in float16."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline.quantization import half_limits
from pipeline.quantization.half import element_types
from pipeline.quantization.half_rounding import rounded
from tests.quantization.half_files import kept_in, labels, scaled_up_and_down, unprotected


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


def test_inputs_that_must_be_float32_and_tensors_read_in_both_types(make: Any, frames: Any) -> None:
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
