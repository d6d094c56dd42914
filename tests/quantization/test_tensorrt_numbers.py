"""The results of the INT8 file for TensorRT, against fake quantisation in numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from pipeline.quantization import tensorrt
from pipeline.quantization.half import to_float16

Floats = npt.NDArray[np.float64]


def weights_of_all_sizes() -> npt.NDArray[np.float32]:
    """Channels with magnitudes of 1e-7 to 100, and one of zeros."""
    rng = np.random.default_rng(0)
    size = np.float32([100, 1, 0.05, 7e-3, 1e-3, 2e-5, 1e-7, 0])
    return (size[:, None, None, None] * rng.standard_normal((8, 4, 3, 3))).astype(np.float32)


@pytest.mark.parametrize("scale_type", [np.float32, np.float16])
@pytest.mark.parametrize("axis", [0, 1, 3])
def test_weights_are_off_by_half_a_scale_at_most(scale_type: Any, axis: int) -> None:
    weight = np.moveaxis(weights_of_all_sizes(), 0, axis)
    values, scales = tensorrt.quantize_per_channel(weight, axis, scale_type=scale_type)
    assert scales.shape == (8,)
    assert np.array_equal(scales.astype(scale_type).astype(np.float32), scales), "the file would hold other scales"
    assert (scales > 0).all()
    assert np.abs(values.astype(int)).max() <= 127
    for channel in range(8):
        original = np.take(weight, channel, axis=axis).astype(np.float64)
        stored = np.take(values, channel, axis=axis) * np.float64(scales[channel])
        assert np.abs(stored - original).max() <= np.float64(scales[channel]) * (0.5 + 1e-6)


def test_small_channels_keep_their_size_in_the_float16_file(
    make: Callable[..., onnx.ModelProto], write_int8: Any, tmp_path: Path
) -> None:
    """The smallest normal float16 is 6.1e-5: scales below it must be raised before the weights are rounded."""
    model = make("depthwise")
    for tensor in model.graph.initializer:
        if tensor.name == "deep.w":
            small = (numpy_helper.to_array(tensor) * 1e-3).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(small, "deep.w"))
    onnx.save(model, tmp_path / "float.onnx")
    ranges = dict.fromkeys(("x", "a_relu"), (-1.0, 1.0))
    write_int8(tensorrt, tmp_path / "float.onnx", tmp_path / "int8.onnx", ranges, float_head=True)
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    weight = stored["deep.w_int8"].astype(np.float64) * stored["deep.w_scale"].reshape(8, 1, 1, 1)
    np.testing.assert_allclose(weight, small, atol=6.2e-5 / 2)


def convolve(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """A 3x3 convolution with padding 1, in loops: (C, H, W) -> (K, H, W)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((weight.shape[0], *x.shape[1:]))
    for i in range(3):
        for j in range(3):
            out += np.einsum("kc,chw->khw", weight[:, :, i, j], padded[:, i : i + x.shape[1], j : j + x.shape[2]])
    return out + bias[:, None, None]


def fake(x: Floats, scale: Floats) -> Floats:
    return np.asarray(np.clip(np.rint(x / scale), -128, 127) * scale)


def test_one_convolution_is_numpys_fake_quantization(
    calibrated: Any, make: Any, frames: Any, evaluate: Any, write_int8: Any, tmp_path: Path
) -> None:
    source, ranges = calibrated("one_conv")
    write_int8(tensorrt, source, tmp_path / "int8.onnx", ranges, float_head=False, float16=False)
    weights = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in make("one_conv").graph.initializer}
    largest = np.abs(weights["logits.w"]).max(axis=(1, 2, 3), keepdims=True)
    quantized_weight = fake(weights["logits.w"], np.float32(largest / 127).astype(np.float64))
    scale_x = np.float64(np.float32(max(abs(v) for v in ranges["x"]) / 127))
    for frame in frames:
        x = frame.transpose(2, 0, 1) * weights["scale"][0] + weights["shift"][0]
        quantized = convolve(fake(x, scale_x), quantized_weight, weights["logits.b"])
        plain = convolve(x, weights["logits.w"], weights["logits.b"])
        computed = evaluate(onnx.load(tmp_path / "int8.onnx"), frame, ["x", "x_dq", "logits"])
        np.testing.assert_allclose(computed["x"][0], x, atol=1e-5)
        steps = np.abs(computed["x_dq"][0] - fake(x, scale_x)) / scale_x
        assert steps.max() < 1.01  # a tie may round the other way in float32
        assert (steps > 0.01).mean() < 0.01
        error = np.abs(computed["logits"][0] - quantized)
        assert np.median(error) < 1e-5
        assert error.max() <= scale_x * np.abs(weights["logits.w"]).max() * 3
        assert error.mean() < 0.05 * np.abs(plain - quantized).mean()  # close to INT8, not to the float network


def test_scales_come_from_the_larger_magnitude(calibrated: Any, write_int8: Any, tmp_path: Path) -> None:
    source, _ = calibrated("one_conv")
    for low, high in ((-3.0, 1.0), (-1.0, 3.0), (0.0, 3.0)):
        write_int8(tensorrt, source, tmp_path / "q.onnx", {"x": (low, high)}, float_head=False, float16=False)
        stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "q.onnx").graph.initializer}
        assert stored["x_scale"] == np.float32(3.0 / 127)


def test_an_activation_of_zeros_has_a_scale_that_float16_holds(
    calibrated: Any, write_int8: Any, tmp_path: Path
) -> None:
    source, _ = calibrated("one_conv")
    write_int8(tensorrt, source, tmp_path / "q.onnx", {"x": (0.0, 0.0)}, float_head=False)
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert stored["x_scale"] >= np.finfo(np.float16).tiny


def test_float16_conversion_keeps_what_onnx_requires_in_float32(
    make: Callable[..., onnx.ModelProto], frames: Any, evaluate: Any
) -> None:
    """Scales of Resize stay float32, as initializer and as Constant node; larger weights are clipped."""

    def fill(net: Any) -> None:
        net.add("Relu", [net.conv("x", "a", 3, 5, strides=[2, 2])], "a_relu")
        node = net.constant("one", np.float32([1e-9, 1e9]))
        twice = numpy_helper.from_array(np.float32([1, 1, 2, 2]))
        half = numpy_helper.from_array(np.float32([0.5]))
        net.add("Resize", ["a_relu", "", net.add("Constant", [], "twice", value=twice)], "b", mode="linear")
        net.add("Resize", ["b", "", net.constant("same", np.float32([1, 1, 1, 1]))], "c", mode="linear")
        net.add("Mul", ["c", net.add("Constant", [], "half", value=half)], "d")
        net.add("ReduceMax", [node], "largest", keepdims=0)
        net.add("Min", ["d", "largest"], "e")
        net.conv("e", "logits", 5, 5)

    model = make(None, fill)
    expected = evaluate(model, frames[0], ["d"])["d"]
    to_float16(model)
    onnx.checker.check_model(model, full_check=True)
    converted = evaluate(model, frames[0], ["d", "largest", "labels"])
    assert converted["d"].dtype == np.float16
    assert converted["largest"] == np.finfo(np.float16).max
    np.testing.assert_allclose(converted["d"], expected, atol=0.02)
