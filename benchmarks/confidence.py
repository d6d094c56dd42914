"""Cost of the second output, whether it changes labels, and whether its values are right: 80 percent of the pixels that
have a confidence of 80 percent should have the right label.

    python benchmarks/confidence.py artifacts/onnx/kd artifacts/int8/kd artifacts/dataset \
        --out docs/results/confidence.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pipeline import artifact
from pipeline.artifact import CPU_FILE
from pipeline.export.confidence import add_confidence
from pipeline.frames import resize_frame, resize_label_map
from pipeline.prepared import Prepared
from pipeline.runtimes.onnxruntime import OnnxRuntime, cpu_model, instructions

BINS = 10


def reliability(levels: Any, right: Any) -> dict[str, Any]:
    """Difference between confidence and accuracy.

    Args:
        levels: (N,) uint8 confidence of labelled pixels.
        right: (N,) whether their label is the true one.
    """
    confidence = levels / 255
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    table = []
    for index in range(BINS):
        chosen = bins == index
        if chosen.any():
            mean, share = float(confidence[chosen].mean()), float(right[chosen].mean())
            table.append({"pixels": int(chosen.sum()), "confidence": round(mean, 4), "accuracy": round(share, 4)})
    error = sum(row["pixels"] * abs(row["confidence"] - row["accuracy"]) for row in table) / len(levels)
    return {
        "accuracy": round(float(right.mean()), 4),
        "confidence_where_right": round(float(confidence[right].mean()), 4),
        "confidence_where_wrong": round(float(confidence[~right].mean()), 4),
        "expected_calibration_error": round(error, 4),
        "bins": table,
    }


def measure(file: Path, frames: Any, targets: Any, *, ignore: int, rounds: int) -> dict[str, Any]:
    """A file with and without confidence: labels, time in turn, and calibration error."""
    runtime = OnnxRuntime(threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        model = onnx.load(file)
        add_confidence(model)
        confident = Path(scratch) / "confident.onnx"
        onnx.save(model, confident)
        engines = []
        for source in (file, confident):
            target = Path(scratch) / f"{len(engines)}.engine.onnx"
            runtime.build(source, target)
            engines.append(runtime.load(target))
    plain, engine = engines
    levels, right, equal = [], [], True
    for frame, target in zip(frames, targets, strict=True):
        labels, confidence = engine.run_with_confidence(frame[None])
        equal &= np.array_equal(labels, plain.run(frame[None]))
        counted = target != ignore
        levels.append(confidence[0][counted])
        right.append((labels[0] == target)[counted])
    times: dict[str, list[float]] = {"plain": [], "with_confidence": []}
    for index in range(rounds):
        frame = frames[index % len(frames)][None]
        for name, run in (("plain", plain.run), ("with_confidence", engine.run_with_confidence)):
            start = time.perf_counter()
            run(frame)
            times[name].append(1e3 * (time.perf_counter() - start))
    middle = {name: round(statistics.median(values), 3) for name, values in times.items()}
    return {
        "labels_equal": equal,
        "ms": middle,
        "ratio": round(middle["with_confidence"] / middle["plain"], 3),
        **reliability(np.concatenate(levels), np.concatenate(right)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    floats, int8 = artifact.load(args.onnx, kind="onnx"), artifact.load(args.int8, kind="int8")
    if "confidence" in floats.meta:
        parser.error(f"{args.onnx} has the second output already; name an artifact without it")
    split = Prepared(args.dataset).split("val")
    height, width = floats.meta["input_size"]
    size = tuple(floats.meta["output"]["shape"][1:])
    frames = [resize_frame(split.frame(index), (height, width)) for index in range(len(split))]
    targets = [resize_label_map(split.label(index), (size[0], size[1])) for index in range(len(split))]
    figures: dict[str, Any] = {"cpu": cpu_model(), "instructions": instructions(), "frames": len(frames)}
    for file in (floats.file("fp32.onnx"), int8.file(CPU_FILE)):
        figures[file.name] = measure(file, frames, targets, ignore=floats.labels.ignore_index, rounds=args.rounds)
        print(file.name, json.dumps({key: value for key, value in figures[file.name].items() if key != "bins"}))
    artifact.write_text(args.out, artifact.dump_json(figures))


if __name__ == "__main__":
    main()
