"""Check on real frames that the deploy graphs give the same results as the ONNX file.

The reference is the file itself, see :mod:`pipeline.imported.reference`. A wrong description (another mean, another
channel order) is wrong in both and is not detected here. Therefore the share of each class on the frames is recorded:
it shows a reader whether the network works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from pipeline.errors import UserError
from pipeline.export.onnx_file import OPSET
from pipeline.export.parity import AGREEMENT, LOGITS_TOLERANCE
from pipeline.frames import Array
from pipeline.imported.description import Description
from pipeline.imported.names import RESULT
from pipeline.imported.reference import Reference
from pipeline.quantization.half_rounding import rounded

Floats = npt.NDArray[np.float32]
#: ``LOGITS_TOLERANCE`` for a file in float16: it rounds the result of every layer, and the deploy graph is float32.
LOGITS_TOLERANCE_HALF = 0.1


def check(
    description: Description, graphs: Mapping[str, onnx.ModelProto], frames: Sequence[Array], *, size: tuple[int, int]
) -> dict[str, Any]:
    """Compare deploy graphs with the ONNX file from which they were built.

    The float16 graph is computed as a GPU computes it. If it disagrees with the file, this is recorded and raises no
    error, see ``export.parity.float16_facts``: INT8 for CPUs does not need float16.

    Args:
        graphs: by precision, ``fp32`` and ``fp16``.
        frames: (H, W, 3) BGR uint8 of the input size.
        size: (height, width) of the label maps.

    Returns:
        ``agreement`` by precision (share of pixels), ``core_max_difference`` of fp32 (standard deviations of the
        logits; only for logits), ``threshold`` (only for one channel), ``frames`` (their number), and ``class_share``
        (share of each class in the file's labels).

    Raises:
        UserError: the fp32 graph differs by more than rounding can cause, or the file's output has ids without a class.
    """
    reference = Reference(description, frames)
    sessions = {name: _session(rounded(graph).SerializeToString()) for name, graph in graphs.items()}
    with_logits = description.output == "logits"
    fp32 = _session(_with_result(graphs["fp32"]).SerializeToString()) if with_logits else None
    counts: npt.NDArray[np.int64] = np.zeros(256, np.int64)
    agreement = dict.fromkeys(graphs, 0.0)
    differences: list[float] = []
    for frame, result in reference.results():
        expected = reference.labels(result, size=size)
        counts += np.bincount(expected.ravel(), minlength=256)
        for name, session in sessions.items():
            agreement[name] += float((session.run(None, {"frames": frame[np.newaxis]})[0][0] == expected).mean())
        if fp32 is not None:
            logits = fp32.run([RESULT], {"frames": frame[np.newaxis]})[0][0]
            differences.append(_difference(logits, result, step=1.0 if reference.whole else 0.0))
    reference.require_classes()
    record: dict[str, Any] = {
        "agreement": {name: round(total / len(frames), 6) for name, total in agreement.items()},
        "frames": len(frames),
        "class_share": {
            name: round(float(count / counts.sum()), 4)
            for name, count in zip(description.labels.names, counts, strict=False)
        },
    }
    if description.threshold is not None:
        record["threshold"] = description.threshold
    if differences:
        difference = float(np.max(differences))  # np.max, because Python's max ignores NaN
        allowed = LOGITS_TOLERANCE_HALF if reference.half else LOGITS_TOLERANCE
        if not difference <= allowed:
            raise UserError(
                f"{description.model}: the deploy graph's logits differ from the file's by {difference:.2g} standard "
                f"deviations; allowed: {allowed}; export the network again with opset {OPSET}"
            )
        record["core_max_difference"] = float(f"{difference:.3g}")
    share, needed = record["agreement"]["fp32"], AGREEMENT["fp16" if reference.half else "fp32"]
    if share < needed:
        raise UserError(
            f"{description.model}: the fp32 deploy graph agrees with the file on {share:.2%} of pixels; needed: "
            f"{needed:.1%}; export the network again with opset {OPSET}"
        )
    return record


def _difference(logits: Floats, reference: Floats, *, step: float) -> float:
    """The largest difference, in standard deviations of the reference. Equal infinities do not differ.

    Args:
        step: difference that does not count: a score just below a whole number may be cast to the number before it.
    """
    finite = reference[np.isfinite(reference)]
    differences = np.abs(np.subtract(logits, reference, where=logits != reference, out=np.zeros_like(reference)))
    differences = np.maximum(differences - step, 0)
    return float(differences.max() / max(float(finite.std()), 1e-12))


def _with_result(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the network's result as an additional output."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    model.graph.output.append(onnx.ValueInfoProto(name=RESULT))
    return model


def _session(source: str | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
