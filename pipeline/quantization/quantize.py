"""From a float deploy graph and train frames to both INT8 files, made from the same ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from pipeline import artifact
from pipeline.artifact import Artifact
from pipeline.export.onnx_file import write_metadata
from pipeline.frames import Array
from pipeline.quantization import calibration, cpu, tensorrt

RANGES = "ranges.json"
#: Threads of the calibration passes: ranges must not depend on the machine's core count.
THREADS = 2


def choose_frames(names: list[str], *, count: int, seed: int) -> list[int]:
    """Indices of ``count`` frames of the train split, drawn with a seed, in order; all of them when there are fewer."""
    generator = np.random.default_rng(seed)
    return sorted(int(i) for i in generator.permutation(len(names))[:count])


def quantize(
    source: Artifact,
    out: Path,
    *,
    frames: Iterable[Array],
    method: str,
    percentile: float,
    float_head: bool,
    facts: Mapping[str, Any],
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Write int8_cpu.onnx, int8_tensorrt.onnx and ranges.json as an artifact.

    Args:
        source: the ONNX artifact; its fp32.onnx is quantised.
        frames: (H, W, 3) BGR uint8 of the input size, from train.
        method, percentile: how a range is chosen, see ``ranges.choose``.
        float_head: keep the classifier in float.
        facts: more for meta.json (which frames).
    """
    float_file = source.file("fp32.onnx")
    histograms = calibration.collect(float_file, frames, threads=THREADS, progress=progress)
    found = calibration.ranges(histograms, method=method, percentile=percentile)
    carried = {key: value for key, value in source.facts.items() if key != "parity"}
    calibrated = {
        "method": method,
        "float_head": float_head,
        **({"percentile": percentile} if method == "percentile" else {}),
    }
    libraries = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    carried["built_with"] = {**carried.get("built_with", {}), **libraries}
    meta = {**carried, **facts, "precision": "int8", "calibration": calibrated, "parents": {"onnx": source.hash}}
    with artifact.create(out, kind="int8", meta=meta) as folder:
        artifact.write_text(folder / RANGES, artifact.dump_json(found))
        cpu.quantize(float_file, folder / "int8_cpu.onnx", found, float_head=float_head)
        tensorrt.quantize(float_file, folder / "int8_tensorrt.onnx", found, float_head=float_head)
        for name in ("int8_cpu.onnx", "int8_tensorrt.onnx"):
            write_metadata(folder / name, meta)
