"""Int8 weights with which no x86 kernel can overflow.

Without VNNI, ONNX Runtime multiplies with VPMADDUBSW: it adds the products of two uint8 activations with two int8
weights and *saturates* the sum at int16. 255 * (w0 + w1) must stay within -32768..32767, so two weights of the same
sign in a pair may sum to 128 at most, where 8 bits allow 254. A larger sum gives wrong labels on one CPU and right
labels on another. ONNX Runtime's own solutions are 7 bits for every weight (``reduce_range``) or slower kernels
(``session.x64quantprecision``).

This module gives each output channel the smallest scale that keeps its pairs within the limit. Large weights are rare,
and pairs of two large weights of one sign are rarer: a channel loses half a bit on average and one bit at most. The
pairs are those that the kernels form: the weights of one output channel are listed by kernel row, kernel column and
input channel, and each two neighbours, from the first, are a pair. Depthwise kernels multiply in 32 bits and form no
pairs, so they keep 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from pipeline.quantization.graph import output_axis
from pipeline.quantization.scales import INT8_MAX

#: Limit for the sum of a pair (two weights of one sign, divided by their scale). Rounded, such a pair sums to at most
#: 128.
PAIR_MAX = 127.99
#: Operators whose CPU kernels multiply in pairs.
PAIRED = ("Conv", "MatMul", "Gemm")

Floats = npt.NDArray[np.float32]
Rounded = tuple[npt.NDArray[np.int8], Floats]


def forms_pairs(layer: onnx.NodeProto, shape: Iterable[int]) -> bool:
    """Whether the CPU kernel of a layer adds products in pairs. The kernel of depthwise convolutions does not.

    Args:
        shape: of the weight.
    """
    groups = next((a.i for a in layer.attribute if a.name == "group"), 1)
    out_channels, in_channels, *_ = shape  # of a convolution; in_channels per group
    depthwise = layer.op_type == "Conv" and in_channels == 1 and out_channels == groups > 1
    return layer.op_type in PAIRED and not depthwise


def in_pairs(weight: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """Each output channel's weights in the kernels' pairs, (C, pairs, 2); a last single one is paired with 0."""
    by_channel = np.moveaxis(weight, axis, 0)
    if by_channel.ndim > 2:
        by_channel = np.moveaxis(by_channel, 1, -1)
    flat = by_channel.reshape(len(by_channel), -1)
    flat = np.pad(flat, ((0, 0), (0, flat.shape[1] % 2)))
    return flat.reshape(len(flat), -1, 2)


def largest_sums(pairs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The largest sum in a pair of each channel, over weights of one sign, (C,)."""
    signs = [np.clip(sign * pairs, 0, None).sum(axis=2).max(axis=1) for sign in (1, -1)]
    largest: npt.NDArray[Any] = np.maximum(*signs)
    return largest


def scales_of(weight: Floats, axis: int, *, paired: bool) -> Floats:
    """Symmetric int8 scale of each channel of ``axis``; with ``paired``, no pair of its weights can saturate.

    Example:
        >>> weight = np.array([[127.0, 100.0], [127.0, -100.0]], np.float32)
        >>> [round(float(scale), 3) for scale in scales_of(weight, 0, paired=True)]
        [1.774, 1.0]
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    scales = np.abs(weight).max(axis=others).astype(np.float64) / INT8_MAX
    if paired:
        scales = np.maximum(scales, largest_sums(in_pairs(weight.astype(np.float64), axis)) / PAIR_MAX)
    smallest = np.finfo(np.float32).tiny
    return np.where(scales < smallest, 1.0, scales).astype(np.float32)


def quantize(layer: onnx.NodeProto, weight: Floats) -> Rounded:
    """Int8 values and scales of a layer's weight, as in the CPU files."""
    axis = output_axis(layer, weight.ndim)
    scales = scales_of(weight, axis, paired=forms_pairs(layer, weight.shape))
    shape = [1] * weight.ndim
    shape[axis] = -1
    return np.clip(np.rint(weight / scales.reshape(shape)), -INT8_MAX, INT8_MAX).astype(np.int8), scales


def overrides(layers: Iterable[onnx.NodeProto], constants: dict[str, onnx.TensorProto]) -> dict[str, Any]:
    """The scales of these layers' weights in the form that QDQQuantizer reads (option ``TensorQuantOverrides``)."""
    by_weight: dict[str, tuple[int, Floats]] = {}  # name -> axis of the output channels, and their scales
    for layer in layers:
        name = layer.input[1]
        weight = numpy_helper.to_array(constants[name]).astype(np.float32)
        axis, (_, scales) = output_axis(layer, weight.ndim), quantize(layer, weight)
        if name in by_weight and by_weight[name][0] == axis:  # several layers share it
            scales = np.maximum(scales, by_weight[name][1])
        by_weight[name] = axis, scales
    zero = np.array(0, np.int8)
    return {
        name: [{"axis": axis, "scale": scale, "zero_point": zero} for scale in scales]
        for name, (axis, scales) in by_weight.items()
    }


def quantised_layers(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, npt.NDArray[np.int8]]]:
    """Layers of a Q/DQ graph that multiply uint8 activations with an int8 weight in pairs, each with its weight."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    dequantisers = {n.output[0]: n for n in model.graph.node if n.op_type == "DequantizeLinear"}
    for node in model.graph.node:
        if node.op_type not in PAIRED or not dequantisers.keys() >= set(node.input[:2]):
            continue
        of_input, of_weight = (dequantisers[name] for name in node.input[:2])
        if constants[of_input.input[2]].data_type == onnx.TensorProto.UINT8 and of_weight.input[0] in constants:
            weight = numpy_helper.to_array(constants[of_weight.input[0]])
            if forms_pairs(node, weight.shape):
                yield node, weight


def describe(model: onnx.ModelProto, *, titles: dict[str, str]) -> dict[str, Any]:
    """Facts about a CPU file for meta.json.

    Args:
        titles: title of each layer, by node name.

    Returns:
        ``saturation_free``: whether no pair of any layer can overflow int16, for any activations;
        ``narrowed_channels``: for each layer, how many of its output channels have fewer than 8 bits for that reason.
    """
    free, narrowed = True, {}
    for node, weight in quantised_layers(model):
        axis = output_axis(node, weight.ndim)
        others = tuple(index for index in range(weight.ndim) if index != axis)
        largest = np.abs(weight.astype(np.int32)).max(axis=others)
        free &= bool((largest_sums(in_pairs(weight.astype(np.int32), axis)) <= 128).all())
        if count := int(((largest > 0) & (largest < INT8_MAX)).sum()):
            narrowed[titles.get(node.name, node.name)] = f"{count} of {len(largest)}"
    return {"saturation_free": free, "narrowed_channels": narrowed}
