"""An imported network's INT8 file against its float one on frames without labels: agreement, by class and in all.

python benchmarks/own_network.py artifacts/own/onnx/own artifacts/own/int8/own drive.mp4 [--every 5]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from pipeline import artifact
from pipeline.errors import UserError, command
from pipeline.evaluation.confusion import ConfusionMatrix
from pipeline.frames import resize_frame


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--every", type=int, default=5, help="take every n-th frame; 5")
    args = parser.parse_args()

    floats, int8 = artifact.load(args.onnx, kind="onnx"), artifact.load(args.int8, kind="int8")
    files = {"fp16": floats.file("fp16.onnx"), "int8_cpu": int8.file("int8_cpu.onnx")}
    reference = onnxruntime.InferenceSession(str(floats.file("fp32.onnx")), providers=["CPUExecutionProvider"])
    others = {
        name: onnxruntime.InferenceSession(str(f), providers=["CPUExecutionProvider"]) for name, f in files.items()
    }
    names, size = floats.labels.names, tuple(floats.meta["input_size"])
    matrices = {
        name: ConfusionMatrix(num_classes=len(names), ignore_index=floats.labels.ignore_index) for name in others
    }
    video = cv2.VideoCapture(str(args.video))
    count = 0
    while True:
        there, frame = video.read()
        if not there:
            break
        count += 1
        if count % args.every:
            continue
        batch = resize_frame(np.asarray(frame, np.uint8), (size[0], size[1]))[np.newaxis]
        expected = reference.run(None, {"frames": batch})[0][0]
        for name, session in others.items():
            matrices[name].add(expected, session.run(None, {"frames": batch})[0][0])
    if count < args.every:
        raise UserError(f"{args.video}: {count} frames could be read; needed: {args.every} or more")
    print(f"{count // args.every} frames of {args.video.name}; float labels are the reference")
    for name, matrix in matrices.items():
        same = 100 * np.trace(matrix.counts) / matrix.counts.sum()
        iou = ", ".join(f"{c} {100 * value:.2f}" for c, value in zip(names, matrix.iou(), strict=True))
        print(f"{name}: {same:.3f} % of pixels agree; IoU with float: {iou}")


if __name__ == "__main__":
    sys.exit(main())
