"""Streaming calibration: one pass over train images, one histogram of fixed size for each tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.quantization import graph as graphs
from pipeline.quantization.histogram import Histogram
from pipeline.quantization.ranges import choose

Ranges = dict[str, tuple[float, float]]


def collect(
    onnx_file: Path, frames: Iterable[Array], *, threads: int, progress: Callable[[], object] = lambda: None
) -> dict[str, Histogram]:
    """Histogram of every float activation of a deploy graph.

    Args:
        frames: (H, W, 3) BGR uint8 of the graph's input size, from the training split.
        progress: called after every frame.

    Raises:
        UserError: an activation is NaN or infinite, or there was no frame.
    """
    graph = graphs.load(str(onnx_file))
    graph.weights_finite()
    names = graph.float_activations()
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    histograms = {name: Histogram() for name in names}
    source = session.get_inputs()[0].name
    count = 0
    for frame in frames:
        for name, value in zip(names, session.run(names, {source: frame[np.newaxis]}), strict=True):
            if not np.isfinite(value).all():
                raise UserError(
                    f"{onnx_file}: tensor '{name}' is not finite on a calibration frame; the network is broken"
                )
            histograms[name].add(value)
        count += 1
        progress()
    if count == 0:
        raise UserError("no calibration frames; the train split is empty")
    return histograms


def ranges(histograms: dict[str, Histogram], *, method: str, percentile: float) -> Ranges:
    """Range of each tensor by the method of ``quantize.method``, rounded to 9 digits so that the file is stable."""
    found = {}
    for name, histogram in histograms.items():
        low, high = choose(histogram, method=method, percentile=percentile)
        found[name] = (float(f"{low:.9g}"), float(f"{high:.9g}"))
    return found
