"""Check that an exported graph gives the same results as torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F

from pipeline.errors import UserError
from pipeline.export.graphs import CoreGraph, DeployGraph
from pipeline.frames import Array
from pipeline.models import SegNetwork
from pipeline.quantization.half_limits import summary
from pipeline.quantization.half_rounding import rounded

#: Largest difference of logits, in standard deviations of the logits, that float32 rounding can cause.
LOGITS_TOLERANCE = 1e-3
#: Smallest share of pixels whose labels must agree. Near-ties differ between back ends, more of them in float16.
AGREEMENT = {"fp32": 0.999, "fp16": 0.97}
#: Largest difference of the confidence of fp32.onnx, in levels of 255.
LEVELS_TOLERANCE = 2.0
REPORT = "the exporter changed what the network computes: try other versions of torch and onnxscript"


def check(network: SegNetwork, folder: Path, frames: Sequence[Array], *, label_stride: int) -> dict[str, Any]:
    """Compare core.onnx, fp32.onnx and fp16.onnx in ``folder`` with torch on real frames.

    fp16.onnx is computed as a GPU computes it, with float16 rounding and overflow. If it disagrees with torch, this is
    recorded and raises no error: see :func:`float16_facts`.

    Args:
        frames: (H, W, 3) BGR uint8 of the input size.

    Returns:
        ``core_max_difference`` (in standard deviations of the logits), ``agreement`` of fp32 and fp16 (share of
        pixels), and, if the files have the output, ``confidence_difference`` of both (mean, in levels of 255).

    Raises:
        UserError: core.onnx, or the labels or the confidence of fp32.onnx, differ by more than rounding can cause.
    """
    sessions = {name: _session(str(folder / f"{name}.onnx")) for name in ("core", "fp32")}
    sessions["fp16"] = _session(rounded(onnx.load(folder / "fp16.onnx")).SerializeToString())
    deploy = DeployGraph(network, input_size=(frames[0].shape[0], frames[0].shape[1]), label_stride=label_stride).eval()
    core = CoreGraph(network).eval()
    differences: list[float] = []
    agreement = dict.fromkeys(AGREEMENT, 0.0)
    levels: dict[str, list[float]] = {name: [] for name in AGREEMENT}
    largest_fp32 = 0.0  # difference of the confidence, in levels of 255
    with torch.inference_mode():
        for frame in frames:
            batch = frame[np.newaxis]
            image = deploy.to_input(torch.from_numpy(batch))
            logits = core(image)
            exported = _run(sessions["core"], image.numpy())[0]
            differences.append(float(np.abs(exported - logits.numpy()).max() / max(logits.numpy().std(), 1e-12)))
            reference = deploy(torch.from_numpy(batch)).numpy()
            for name in AGREEMENT:
                labels, *confidence = _run(sessions[name], batch)
                agreement[name] += float((labels == reference).mean()) / len(frames)
                if confidence:
                    upsampled = F.interpolate(logits, size=deploy.output_size, mode="bilinear", align_corners=False)
                    expected = 255 * upsampled.softmax(dim=1).amax(dim=1).numpy()
                    level_differences = np.abs(confidence[0] - expected)
                    levels[name].append(float(level_differences.mean()))
                    if name == "fp32":
                        largest_fp32 = max(largest_fp32, float(level_differences.max()))
    difference = float(np.max(differences))  # np.max, because Python's max ignores NaN
    if not difference <= LOGITS_TOLERANCE:
        raise UserError(
            f"core.onnx differs from torch by {difference:.2g} standard deviations; allowed: {LOGITS_TOLERANCE}; "
            f"{REPORT}"
        )
    if agreement["fp32"] < AGREEMENT["fp32"]:
        raise UserError(
            f"fp32.onnx agrees with torch on {agreement['fp32']:.2%} of pixels; needed: {AGREEMENT['fp32']:.1%}; "
            f"{REPORT}"
        )
    if not largest_fp32 <= LEVELS_TOLERANCE:
        raise UserError(
            f"the confidence of fp32.onnx differs from torch by {largest_fp32:.1f} of 255 levels; allowed: "
            f"{LEVELS_TOLERANCE:g}; {REPORT}"
        )
    record: dict[str, Any] = {
        "core_max_difference": float(f"{difference:.3g}"),
        "agreement": {name: round(share, 6) for name, share in agreement.items()},
    }
    if all(levels.values()):
        record["confidence_difference"] = {name: round(float(np.mean(means)), 3) for name, means in levels.items()}
    return record


def float16_facts(parity: Mapping[str, Any], kept: Mapping[str, str]) -> dict[str, Any]:
    """Facts about fp16.onnx: whether it is reliable on a GPU, and the nodes that stay in float32."""
    reliable = bool(parity["agreement"]["fp16"] >= AGREEMENT["fp16"])
    return {"reliable": reliable, "float32_nodes": dict(kept)}


def float16_report(facts: Mapping[str, Any]) -> list[str]:
    """Lines about an artifact's fp16.onnx: the nodes in float32, and a warning if the file is unreliable."""
    lines = [line] if (line := summary(facts["float16"]["float32_nodes"])) else []
    if not facts["float16"]["reliable"]:
        share = facts["parity"]["agreement"]["fp16"]
        lines.append(
            f"warning: fp16.onnx agrees on only {share:.2%} of pixels when it is computed in float16, as on a GPU "
            f"(needed: {AGREEMENT['fp16']:.1%}); on GPUs use fp32 or INT8, not fp16"
        )
    return lines


def _session(source: str | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, value: Any) -> Any:
    return session.run(None, {session.get_inputs()[0].name: value})
