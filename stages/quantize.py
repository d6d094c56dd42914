"""ONNX, its calibration and train frames -> INT8 ONNX files for CPUs and for TensorRT."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import artifact
from pipeline.errors import command
from pipeline.prepared import Prepared
from pipeline.progress import Bars
from pipeline.quantization.half_limits import summary
from pipeline.quantization.quantize import Settings, quantize
from pipeline.quantization.sensitivity import Budget
from pipeline.quantization.trial import Trial
from pipeline.settings import params


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    settings = params.load(args.params, kinds=())
    chosen = settings.quantize.model_dump()
    images, budget = chosen.pop("trial_images"), Budget(**chosen.pop("budget"))
    source = artifact.load(args.onnx, kind="onnx")
    calibration = artifact.load(args.calibration, kind="calibration")
    trial = None
    if images:
        used = calibration.meta["calibration_frames"]["names"]
        trial = Trial.on_train(
            Prepared(args.dataset),
            source,
            used=used,
            count=images,
            seed=settings.seed,
            confidence=settings.budgets.confidence,
        )
    with Bars() as bars:
        quantize(
            source, calibration, args.out, settings=Settings(**chosen, budget=budget), trial=trial, progress=bars.step
        )
    meta = artifact.load(args.out, kind="int8").meta
    if line := summary(meta["float16"]["float32_nodes"]):
        print(f"{args.out / 'int8_tensorrt.onnx'}: {line}")
    if overflows := meta["float16"].get("fp16_overflows"):
        peaks = ", ".join(f"'{name}' reaches {peak}" for name, peak in overflows.items())
        print(f"{args.onnx / 'fp16.onnx'}: warning: it overflows on calibration frames ({peaks}); on GPUs use fp32")
    for file, share in meta.get("exact_agreement", {}).items():
        print(f"{args.out / file}: the kernels of this CPU agree with exact arithmetic on {share:.2f} % of the labels")
    for file, outcome in meta["fallback"].items():
        layers = meta["in_float"][file]["layers"]
        floats = f"; in float: {', '.join(layers)}" if layers else ""
        floats += "; sums in float" if outcome.get("sums_in_float") else ""
        held = "" if outcome["held"] else "; quantize.budget does not hold"
        interval = ""
        if bounds := outcome.get("class_interval"):
            interval = f" ({bounds[0]:.2f} to {bounds[1]:.2f} with {outcome['confidence']:.0%} confidence)"
        print(
            f"{args.out / file}: {images} train frames: drop of {outcome['miou_drop']:.2f} points mIoU; worst class: "
            f"{outcome['worst_class']}, drop of {outcome['class_drop']:.2f}{interval} points IoU{floats}{held}"
        )
    unknown = dict.fromkeys(name for outcome in meta["fallback"].values() for name in outcome.get("undecided", ()))
    if unknown:
        print(
            f"{images} train frames are too few to decide whether quantize.budget holds for {', '.join(unknown)}; no "
            "layer stays in float for them; set quantize.trial_images higher, or read the result of check"
        )


if __name__ == "__main__":
    sys.exit(main())
