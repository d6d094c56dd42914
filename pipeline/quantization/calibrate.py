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
    """Write what a pass over the frames counted, as an artifact of kind ``calibration``.

    Args:
        source: the ONNX artifact; the activations of its fp32.onnx are counted.
        frames: (H, W, 3) BGR uint8 of the input size, from train.
        facts: which frames they are, for meta.json.
        checkpoint: see ``calibration.collect``.
    """
    meta = {**facts, "built_with": {"onnxruntime": onnxruntime.__version__}, "parents": {"onnx": source.hash}}
    with artifact.create(out, kind="calibration", meta=meta) as folder:
        found = calibration.collect(
            source.file("fp32.onnx"),
            frames,
            checkpoint=checkpoint,
            identity=artifact.dump_json(dict(facts)),
            progress=progress,
        )
        found.save(folder / STATISTICS)


def load(found: Artifact) -> Statistics:
    """The statistics of a calibration artifact."""
    return Statistics.load(found.file(STATISTICS))[0]
