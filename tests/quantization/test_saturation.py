"""Weights with which no x86 kernel overflows, tested with an emulation of the saturating instruction."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper
from onnx.helper import make_node

from pipeline.quantization import cpu, saturation
from pipeline.quantization import graph as graphs
from pipeline.quantization.quantize import FAMILIES
from pipeline.quantization.trial import Trial

Ints = npt.NDArray[np.int64]


def vpmaddubsw(activations: npt.NDArray[np.uint8], weights: npt.NDArray[np.int8]) -> Ints:
    """Sums of products as in AVX2 kernels without VNNI: sums of two saturate at int16, all further sums are exact.

    Args:
        activations: (..., K), in the order in which the kernel reads them.
        weights: (K,).
    """
    products = activations.astype(np.int64) * weights
    products = np.pad(products, [(0, 0)] * (products.ndim - 1) + [(0, products.shape[-1] % 2)])
    pairs = products.reshape(*products.shape[:-1], -1, 2).sum(axis=-1)
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=-1)


def kernel_order(weight: npt.NDArray[np.int8], axis: int) -> npt.NDArray[np.int8]:
    """Weights of each output channel in the kernels' order (kernel rows, columns, input channels), (C, K)."""
    if weight.ndim == 2:
        return weight if axis == 0 else weight.T
    return np.stack([channel.transpose(1, 2, 0).ravel() for channel in weight])


def worst_activations(weights: npt.NDArray[np.int8]) -> list[npt.NDArray[np.uint8]]:
    """Activations with the largest, and with the smallest, sum of every pair."""
    return [np.where(weights > 0, 255, 0).astype(np.uint8), np.where(weights < 0, 255, 0).astype(np.uint8)]


def saturates(layer: onnx.NodeProto, values: npt.NDArray[np.int8], axis: int) -> bool:
    channels = kernel_order(values, axis)
    return any(
        (vpmaddubsw(x, w) != (x.astype(np.int64) * w).sum()).any() for w in channels for x in worst_activations(w)
    )


LAYERS = {
    "conv": (make_node("Conv", ["x", "w"], ["y"]), (16, 8, 3, 3), 0),
    "pixels": (make_node("Conv", ["x", "w"], ["y"]), (16, 3, 3, 3), 0),
    "one channel": (make_node("Conv", ["x", "w"], ["y"]), (8, 1, 3, 3), 0),
    "pointwise, odd": (make_node("Conv", ["x", "w"], ["y"]), (9, 33, 1, 1), 0),
    "grouped": (make_node("Conv", ["x", "w"], ["y"], group=4), (16, 4, 3, 3), 0),
    "two maps per channel": (make_node("Conv", ["x", "w"], ["y"], group=8), (16, 1, 3, 3), 0),
    "MatMul": (make_node("MatMul", ["x", "w"], ["y"]), (33, 17), 1),
    "Gemm": (make_node("Gemm", ["x", "w"], ["y"]), (32, 17), 1),
    "Gemm transposed": (make_node("Gemm", ["x", "w"], ["y"], transB=1), (17, 32), 0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_no_pair_of_any_layer_saturates(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, shape, axis = LAYERS[name]
    rng = np.random.default_rng(0)
    drawn = (rng.normal(size=shape), rng.uniform(-1, 1, size=shape), np.ones(shape), -np.ones(shape))
    for weight in (values.astype(np.float32) for values in drawn):
        values, scales = saturation.quantize(layer, weight)
        assert not saturates(layer, values, axis)
        by_channel = scales.reshape([-1 if index == axis else 1 for index in range(weight.ndim)])
        assert np.abs(values * by_channel - weight).max() <= 0.51 * scales.max(), "rounded, not clipped"
    monkeypatch.setattr(saturation, "PAIR_MAX", math.inf)
    assert saturates(layer, saturation.quantize(layer, weight)[0], axis), "with 8 bits for every channel it does"


def test_the_scale_is_no_larger_than_needed() -> None:
    """A channel that cannot saturate keeps 8 bits; one that can gets pairs of 128, and never less than 7 bits."""
    layer = make_node("Conv", ["x", "w"], ["y"])
    weight = np.zeros((4, 4, 1, 1), np.float32)
    weight[0, :, 0, 0] = 127, -100, 1, 0  # of two signs
    weight[1, :, 0, 0] = 127, 0, 127, 0  # large ones in two pairs
    weight[2, :, 0, 0] = 127, 100, 0, 0
    weight[3, :, 0, 0] = -127, -127, 0, 0
    values, scales = saturation.quantize(layer, weight)
    assert np.abs(values).max(axis=(1, 2, 3)).tolist() == [127, 127, 72, 64]
    np.testing.assert_allclose(scales, [1, 1, 227 / 127.99, 254 / 127.99], rtol=1e-6)
    assert values[2].sum() == 128


def test_depthwise_layers_keep_8_bits() -> None:
    weight = np.random.default_rng(0).normal(size=(16, 1, 3, 3)).astype(np.float32)
    values, _ = saturation.quantize(make_node("Conv", ["x", "w"], ["y"], group=16), weight)
    assert (np.abs(values).max(axis=(1, 2, 3)) == 127).all()


def test_empty_and_tiny_channels_have_usable_scales() -> None:
    weight = np.zeros((3, 4, 1, 1), np.float32)
    weight[1], weight[2] = 1e-38, 1e-45
    values, scales = saturation.quantize(make_node("Conv", ["x", "w"], ["y"]), weight)
    assert np.isfinite(scales).all() and (scales > 0).all() and not values[0].any()


@pytest.mark.parametrize("name", ["residual", "concat", "depthwise", "squeeze", "other_layers", "normalised"])
@pytest.mark.parametrize("signed", [False, True])
def test_the_file_has_these_weights(calibrated: Any, name: str, signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    source, ranges = calibrated(name)
    graph = graphs.load(str(source))
    model = cpu.place(graph, ranges, signed=signed)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    dequantised = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    checked = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and dequantised.get(node.input[1]) in constants:
            values = constants[dequantised[node.input[1]]]
            axis = 0 if values.ndim == 4 or any(a.name == "transB" and a.i for a in node.attribute) else 1
            depthwise = any(a.name == "group" and a.i > 1 for a in node.attribute)
            assert depthwise or not saturates(node, values, axis), node.name
            checked += 1
    assert checked >= len([layer for layer in graph.layers if layer.op_type != "ConvTranspose"])
    if not signed:
        facts = saturation.describe(model, titles={})
        assert facts["saturation_free"] and facts["narrowed_channels"]
        monkeypatch.setattr(saturation, "PAIR_MAX", math.inf)
        assert not saturation.describe(cpu.place(graph, ranges), titles={})["saturation_free"]


def test_the_artifact_records_it(student: Any) -> None:
    meta = student.int8.meta
    assert meta["saturation_free"] is True
    titles = graphs.load(str(student.onnx.file("fp32.onnx"))).titles.values()
    assert meta["narrowed_channels"] and set(meta["narrowed_channels"]) <= set(titles)
    for count in meta["narrowed_channels"].values():
        narrowed, channels = map(int, count.split(" of "))
        assert 0 < narrowed <= channels


def test_a_trial_compares_kernels_with_exact_arithmetic(student: Any) -> None:
    """TensorRT's file is measured in exact arithmetic: its weights may saturate on this CPU, but not on a GPU."""
    targets = [np.zeros((128, 192), np.uint8) for _ in student.frames]
    trial = Trial(student.onnx.file("fp32.onnx"), student.frames, targets, student.labels)
    model = onnx.load(student.int8.file("int8_cpu.onnx"))
    assert 98 < trial.exact_agreement(model) < 100
    assert trial.exactly().exact and not trial.exact
    assert trial.exactly().exact_agreement(model) == 100, "both are exact"
    assert [name for name, family in FAMILIES.items() if not family.on_cpu] == ["tensorrt"]
