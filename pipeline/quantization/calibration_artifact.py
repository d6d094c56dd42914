"""From a float deploy graph and train frames to a calibration artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime

from pipeline import artifact
from pipeline.artifact import Artifact
from pipeline.quantization import calibration
from pipeline.quantization.calibration import FrameSource, Statistics

STATISTICS = "statistics.safetensors"


def calibrate(
    source: Artifact,
    out: Path,
    *,
    frames: FrameSource,
    facts: Mapping[str, Any],
    checkpoint: Path | None = None,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Run one pass over the frames and write its statistics as an artifact of kind ``calibration``.

    Args:
        source: the ONNX artifact; the activations of its fp32.onnx are measured.
        frames: (H, W, 3) BGR uint8 of the input size, from train.
        facts: names the frames, for meta.json.
        checkpoint: see ``calibration.collect``.
    """
    meta = {**facts, "built_with": {"onnxruntime": onnxruntime.__version__}, "parents": {"onnx": source.hash}}
    with artifact.create(out, kind="calibration", meta=meta) as folder:
        statistics = calibration.collect(
            source.file("fp32.onnx"),
            frames,
            checkpoint=checkpoint,
            identity=artifact.dump_json(dict(facts)),
            progress=progress,
        )
        statistics.save(folder / STATISTICS)


def load(source: Artifact) -> Statistics:
    """The statistics of a calibration artifact."""
    return Statistics.load(source.file(STATISTICS))[0]
