"""float16 in INT8 files for TensorRT: the type of every Q/DQ pair, and of the layers without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pipeline import artifact
from pipeline.quantization import calibration, half_limits, quantize
from pipeline.quantization import graph as graphs
from pipeline.quantization.tensorrt_release import release
from tests.quantization.half_files import kept_in, labels, read_types, scaled_up_and_down, unprotected


def test_small_values_that_make_no_difference_may_be_lost(make: Any, frames: Any, placed: Any) -> None:
    """A branch whose weights have decayed to 1e-20, added to a normal branch."""

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
