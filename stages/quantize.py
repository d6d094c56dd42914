"""ONNX and train frames -> INT8 ONNX, one file for CPUs and one for TensorRT."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import artifact, params
from pipeline.errors import command
from pipeline.frames import resize_frame
from pipeline.prepared import Prepared
from pipeline.progress import Bars
from pipeline.quantization.quantize import choose_frames, quantize


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    settings = params.load(args.params, kinds=())
    source = artifact.load(args.onnx, kind="onnx")
    prepared = Prepared(args.dataset)
    split = prepared.split("train")
    height, width = source.meta["input_size"]
    chosen = choose_frames(list(split.names), count=settings.quantize.images, seed=settings.seed)
    with Bars() as bars:
        quantize(
            source,
            args.out,
            frames=(resize_frame(split.frame(index), (height, width)) for index in chosen),
            method=settings.quantize.method,
            percentile=settings.quantize.percentile,
            float_head=settings.quantize.float_head,
            facts={
                "calibration_frames": {"dataset": prepared.artifact.hash, "names": [split.names[i] for i in chosen]},
            },
            progress=bars.counter(f"calibrating {args.onnx.name}", len(chosen)),
        )


if __name__ == "__main__":
    sys.exit(main())
