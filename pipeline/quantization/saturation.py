"""Int8 weights that no x86 kernel can overflow.

Without VNNI, ONNX Runtime multiplies with VPMADDUBSW: it adds the products of two uint8 activations with two int8
weights and *saturates* the sum at int16. 255 * (w0 + w1) must stay within -32768..32767, so the weights of a pair that
have the same sign may sum to 128 at most, where 8 bits allow 254. A larger sum gives wrong labels on one CPU and right
ones on another. ONNX Runtime's own answers are 7 bits for every weight (``reduce_range``), or slower kernels
(``session.x64quantprecision``).

Here each output channel gets a scale that is just large enough to keep its pairs within the limit. Large weights are
rare, and seldom two of one sign stand in a pair: a channel loses half a bit on average and one bit at most. The pairs
are those that the kernels form: weights of one output channel, in the order of kernel row, kernel column, input
channel, two by two from the first. Depthwise kernels multiply in 32 bits and form no pairs, so they keep 8 bits.
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

#: Two weights of one sign whose quotients by the scale sum to less than 128 sum to 128 at most once they are rounded.
PAIR_MAX = 127.99
#: Operators whose CPU kernels multiply in pairs.
PAIRED = ("Conv", "MatMul", "Gemm")

Floats = npt.NDArray[np.float32]
Rounded = tuple[npt.NDArray[np.int8], Floats]


def forms_pairs(layer: onnx.NodeProto, shape: Iterable[int]) -> bool:
    """Whether the CPU kernel of a layer adds products in pairs. A depthwise convolution has one of its own, exact.

    Args:
        shape: of the weight.
    """
    groups = next((a.i for a in layer.attribute if a.name == "group"), 1)
    made, given, *_ = shape
    return layer.op_type in PAIRED and not (layer.op_type == "Conv" and given == 1 and made == groups > 1)


def in_pairs(weight: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """The weights of each output channel as the kernels pair them, (C, pairs, 2); an odd last one is paired with 0."""
    by_channel = np.moveaxis(weight, axis, 0)
    if by_channel.ndim > 2:
        by_channel = np.moveaxis(by_channel, 1, -1)
    flat = by_channel.reshape(len(by_channel), -1)
    flat = np.pad(flat, ((0, 0), (0, flat.shape[1] % 2)))
    return flat.reshape(len(flat), -1, 2)


def largest_sums(pairs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of each channel: the largest sum of the weights of one sign in a pair, (C,)."""
    signs = [np.clip(sign * pairs, 0, None).sum(axis=2).max(axis=1) for sign in (1, -1)]
    largest: npt.NDArray[Any] = np.maximum(*signs)
    return largest


def scales_of(weight: Floats, axis: int, *, paired: bool) -> Floats:
    """Symmetric int8 scale of each channel of ``axis``; with ``paired`` no pair of its weights can saturate.

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
    """Int8 values and scales of a layer's weight, as the CPU files have them."""
    axis = output_axis(layer, weight.ndim)
    scales = scales_of(weight, axis, paired=forms_pairs(layer, weight.shape))
    shape = [1] * weight.ndim
    shape[axis] = -1
    return np.clip(np.rint(weight / scales.reshape(shape)), -INT8_MAX, INT8_MAX).astype(np.int8), scales


def overrides(layers: Iterable[onnx.NodeProto], constants: dict[str, onnx.TensorProto]) -> dict[str, Any]:
    """The scales of these layers' weights, as ONNX Runtime's QDQQuantizer takes them (``TensorQuantOverrides``)."""
    found: dict[str, tuple[int, Floats]] = {}
    for layer in layers:
        name = layer.input[1]
        weight = numpy_helper.to_array(constants[name]).astype(np.float32)
        axis, (_, scales) = output_axis(layer, weight.ndim), quantize(layer, weight)
        if name in found and found[name][0] == axis:  # several layers share it
            scales = np.maximum(scales, found[name][1])
        found[name] = axis, scales
    zero = np.array(0, np.int8)
    return {
        name: [{"axis": axis, "scale": scale, "zero_point": zero} for scale in scales]
        for name, (axis, scales) in found.items()
    }


def quantised_layers(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, npt.NDArray[np.int8]]]:
    """Layers of a Q/DQ graph that multiply uint8 activations with an int8 weight in pairs, with that weight."""
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
    """What meta.json says of a CPU file.

    Args:
        titles: what to call each layer, by node name.

    Returns:
        ``saturation_free``: whether no pair of any layer can overflow int16, whatever the activations;
        ``narrowed_channels``: by layer, how many of its output channels have fewer than 8 bits because of that.
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
