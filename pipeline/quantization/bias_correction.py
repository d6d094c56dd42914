"""Bias correction: rounded weights shift the mean of a layer's output, and a new bias cancels this shift.

``E[W_q x] - E[W x] = (W_q - W) E[x]``: calibration measures the mean of each input channel, so the shift of each output
channel follows without labels and without running the network (Nagel et al. 2019, arXiv 1906.04721, section 4.2, where
the means come from batch norm). Padding at the border is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from pipeline.quantization.calibration import Statistics
from pipeline.quantization.graph import Graph

Floats = npt.NDArray[np.float64]
#: From a convolution and its weight to int8 values and one scale per output channel, as a placement rounds them.
RoundWeight = Callable[[onnx.NodeProto, npt.NDArray[np.float32]], tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]]


def correct(
    source: Graph, statistics: Statistics, *, round_weight: RoundWeight, float_nodes: Collection[str] = ()
) -> Graph:
    """A copy of the graph in which the biases of the convolutions cancel the shift of their rounded weights.

    Args:
        statistics: of a calibration pass over this graph.
        float_nodes: layers that are not quantised; their biases do not change. The bias of the first layer does not
            change either, because a placement may fold the normalisation into its weights.
        round_weight: how the placement will round the weights.
    """
    graph = source.copy()
    skipped = {*float_nodes, *(node.name for node in graph.normalised)}
    for node in graph.layers:
        if node.op_type != "Conv" or node.name in skipped or node.input[0] not in statistics.channel_sums:
            continue
        weight = numpy_helper.to_array(graph.initializers[node.input[1]]).astype(np.float32)
        values, scales = round_weight(node, weight)
        error = values.astype(np.float64) * scales.reshape([-1] + [1] * (weight.ndim - 1)) - weight
        shifts = shift(error, statistics.channel_mean(node.input[0]))
        bias = np.zeros(len(weight), np.float32)
        if len(node.input) > 2 and node.input[2]:
            bias = numpy_helper.to_array(graph.initializers[node.input[2]])
        name = f"{node.name}.corrected_bias"
        graph.model.graph.initializer.append(numpy_helper.from_array((bias - shifts).astype(np.float32), name))
        del node.input[2:]
        node.input.append(name)
    return Graph(graph.model)


def shift(error: Floats, means: Floats) -> Floats:
    """How much the mean of each output channel changes when a convolution's weight is rounded, (O,).

    Args:
        error: rounded weight minus weight, (O, I / groups, kh, kw).
        means: (I,) of the input channels.
    """
    out_channels, in_channels = error.shape[:2]
    groups = len(means) // in_channels
    by_channel = error.reshape(groups, out_channels // groups, in_channels, -1).sum(axis=3)
    shifts: Floats = np.einsum("goi,gi->go", by_channel, means.reshape(groups, in_channels)).reshape(out_channels)
    return shifts
