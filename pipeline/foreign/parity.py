"""Do the deploy graphs compute what the foreign file computes? Asked on real frames.

The reference shares nothing with the graphs: the file as it came, run by ONNX Runtime, with preprocessing, upsampling
and argmax in NumPy and OpenCV. A wrong description (another mean, another channel order) is wrong on both sides and is
not found here; what the network sees on the frames, the share of each class, is recorded so that a reader can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from pipeline.errors import UserError
from pipeline.export.parity import AGREEMENT, LOGITS_TOLERANCE
from pipeline.foreign.description import Description
from pipeline.foreign.network import RESULT
from pipeline.frames import Array
from pipeline.quantization.half_rounding import rounded

Floats = npt.NDArray[np.float32]


def check(
    description: Description, graphs: Mapping[str, onnx.ModelProto], frames: Sequence[Array], *, size: tuple[int, int]
) -> dict[str, Any]:
    """Compare deploy graphs with the file that they were made from.

    The float16 graph is computed as a GPU computes it. What it lacks in agreement is recorded and no error, see
    ``export.parity.float16_facts``: INT8 for CPUs does not need it.

    Args:
        graphs: by precision, ``fp32`` and ``fp16``.
        frames: (H, W, 3) BGR uint8 of the input size.
        size: (height, width) of the label maps.

    Returns:
        ``agreement`` by precision (share of pixels), ``core_max_difference`` of fp32 (standard deviations of the
        logits; logits only), ``frames``, and ``class_share`` that the file finds on them.

    Raises:
        UserError: the fp32 graph differs by more than rounding explains, or the file gives ids that are no class.
    """
    original = _session(str(description.model))
    opened = {name: _session(rounded(graph).SerializeToString()) for name, graph in graphs.items()}
    inner = _session(_with_result(graphs["fp32"]).SerializeToString()) if description.output == "logits" else None
    head = description.head or original.get_outputs()[0].name
    counts: npt.NDArray[np.int64] = np.zeros(256, np.int64)
    same = dict.fromkeys(graphs, 0.0)
    differences: list[float] = []
    for frame in frames:
        result = original.run([head], {original.get_inputs()[0].name: to_input(frame, description)})[0]
        expected = to_labels(result, description, size=size)
        counts += np.bincount(expected.ravel(), minlength=256)
        for name, session in opened.items():
            same[name] += float((session.run(None, {"frames": frame[np.newaxis]})[0][0] == expected).mean())
        if inner is not None:
            logits = _planes(result, description)
            got = inner.run([RESULT], {"frames": frame[np.newaxis]})[0][0]
            differences.append(float(np.abs(got - logits).max() / max(float(logits.std()), 1e-12)))
    _refuse_unknown(counts, description)
    found: dict[str, Any] = {
        "agreement": {name: round(total / len(frames), 6) for name, total in same.items()},
        "frames": len(frames),
        "class_share": {
            name: round(float(count / counts.sum()), 4)
            for name, count in zip(description.labels.names, counts, strict=False)
        },
    }
    if differences:
        difference = float(np.max(differences))  # np.max, because Python's max passes over NaN
        if not difference <= LOGITS_TOLERANCE:
            raise UserError(
                f"{description.model}: the deploy graph's logits differ from the file's by {difference:.2g} standard "
                f"deviations; allowed: {LOGITS_TOLERANCE}; export the network again with opset 18"
            )
        found["core_max_difference"] = float(f"{difference:.3g}")
    share, needed = found["agreement"]["fp32"], AGREEMENT["fp32"]
    if share < needed:
        raise UserError(
            f"{description.model}: the fp32 deploy graph agrees with the file on {share:.2%} of pixels; needed: "
            f"{needed:.1%}"
        )
    return found


def to_input(frame: Array, description: Description) -> Floats:
    """(H, W, 3) BGR uint8 -> what the file takes, by its description."""
    pixels = frame[..., ::-1] if description.channel_order == "RGB" else frame
    image = (pixels.astype(np.float64) / 255 - description.mean) / description.std
    if description.layout == "NCHW":
        image = image.transpose(2, 0, 1)
    return np.ascontiguousarray(image[np.newaxis], np.float32)


def to_labels(result: npt.NDArray[Any], description: Description, *, size: tuple[int, int]) -> Array:
    """What the file gives -> label map (height, width) of ``size``."""
    if description.output == "labels":
        ids = result.reshape(size)
        return np.asarray(np.clip(ids, 0, 255), np.uint8)
    planes = [cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR) for plane in _planes(result, description)]
    return np.asarray(np.argmax(planes, axis=0), np.uint8)


def _planes(result: npt.NDArray[Any], description: Description) -> Floats:
    """Logits of one frame as (K, h, w)."""
    planes: Floats = result[0].transpose(2, 0, 1) if description.output_layout == "NHWC" else result[0]
    return np.ascontiguousarray(planes)


def _refuse_unknown(counts: npt.NDArray[np.int64], description: Description) -> None:
    known = {*range(description.labels.num_classes), description.labels.ignore_index}
    if unknown := sorted(set(np.flatnonzero(counts).tolist()) - known):
        raise UserError(
            f"{description.model}: gives ids {unknown}; the description names {description.labels.num_classes} "
            f"classes, 0..{description.labels.num_classes - 1}; name them all"
        )


def _with_result(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the network's own result as an output too."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    model.graph.output.append(onnx.ValueInfoProto(name=RESULT))
    return model


def _session(source: str | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
