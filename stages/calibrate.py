"""ONNX and train frames -> statistics of every activation; `quantize` chooses the ranges from them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import artifact
from pipeline.errors import command
from pipeline.prepared import Prepared
from pipeline.progress import Bars
from pipeline.quantization.calibration_artifact import calibrate
from pipeline.quantization.calibration_frames import Frames
from pipeline.settings import params


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="file from which an interrupted pass resumes")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    settings = params.load(args.params, kinds=())
    source = artifact.load(args.onnx, kind="onnx")
    prepared = Prepared(args.dataset)
    frames = Frames.for_calibration(
        prepared,
        tuple(source.meta["input_size"]),
        count=settings.calibrate.images,
        seed=settings.seed,
        allow_missing=settings.calibrate.allow_missing_classes,
    )
    with Bars() as bars:
        calibrate(
            source,
            args.out,
            frames=frames,
            facts={"calibration_frames": {"dataset": prepared.artifact.hash, "names": frames.names}},
            checkpoint=args.checkpoint,
            progress=bars.counter(f"calibrating {args.onnx.name}", len(frames)),
        )


if __name__ == "__main__":
    sys.exit(main())
