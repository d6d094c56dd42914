"""Does an exported graph still compute what torch computes?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from pipeline.errors import UserError
from pipeline.export.graphs import CoreGraph, DeployGraph
from pipeline.frames import Array
from pipeline.models import SegNetwork

#: Largest difference of logits, as a share of their standard deviation, that float32 rounding explains.
LOGITS_TOLERANCE = 1e-3
#: Share of pixels whose class must not change. Near ties flip between back ends, more of them in float16.
AGREEMENT = {"fp32": 0.999, "fp16": 0.97}


def check(network: SegNetwork, folder: Path, frames: Sequence[Array], *, label_stride: int) -> dict[str, Any]:
    """Compare core.onnx, fp32.onnx and fp16.onnx in ``folder`` with torch on real frames.

    Args:
        frames: (H, W, 3) BGR uint8 of the input size.

    Returns:
        ``core_max_difference`` (in standard deviations of the logits) and ``agreement`` of fp32 and fp16 (share of
        pixels).

    Raises:
        UserError: a graph differs by more than rounding explains.
    """
    sessions = {name: _session(folder / f"{name}.onnx") for name in ("core", *AGREEMENT)}
    deploy = DeployGraph(network, input_size=(frames[0].shape[0], frames[0].shape[1]), label_stride=label_stride).eval()
    core = CoreGraph(network).eval()
    differences: list[float] = []
    same = dict.fromkeys(AGREEMENT, 0.0)
    with torch.inference_mode():
        for frame in frames:
            batch = frame[np.newaxis]
            x = deploy.to_input(torch.from_numpy(batch))
            logits = core(x).numpy()
            exported = _run(sessions["core"], x.numpy())
            differences.append(float(np.abs(exported - logits).max() / max(logits.std(), 1e-12)))
            reference = deploy(torch.from_numpy(batch)).numpy()
            for name in AGREEMENT:
                same[name] += float((_run(sessions[name], batch) == reference).mean()) / len(frames)
    difference = float(np.max(differences))  # np.max, because Python's max passes over NaN
    if not difference <= LOGITS_TOLERANCE:
        raise UserError(
            f"core.onnx differs from torch by {difference:.2g} standard deviations; allowed: {LOGITS_TOLERANCE}"
        )
    for name, share in same.items():
        if share < AGREEMENT[name]:
            raise UserError(f"{name}.onnx agrees with torch on {share:.2%} of pixels; needed: {AGREEMENT[name]:.1%}")
    return {
        "core_max_difference": float(f"{difference:.3g}"),
        "agreement": {name: round(share, 6) for name, share in same.items()},
    }


def _session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, value: Any) -> Any:
    return session.run(None, {session.get_inputs()[0].name: value})[0]
