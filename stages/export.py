"""Network -> ONNX graphs (core, fp32, fp16), whose results are compared with torch."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

from pipeline import artifact
from pipeline.errors import command
from pipeline.export.export import export_network
from pipeline.export.parity import float16_report
from pipeline.frames import resize_frame
from pipeline.models.weights import network_artifact
from pipeline.prepared import Prepared
from pipeline.settings import params

PARITY_FRAMES = 8


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--network", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    settings = params.load(args.params, kinds=())
    network, stored = network_artifact.load(args.network)
    split = Prepared(args.dataset).split("train")
    height, width = stored.meta["input_size"]
    frames = [resize_frame(split.frame(index), (height, width)) for index in range(min(PARITY_FRAMES, len(split)))]
    parity = export_network(
        network,
        stored,
        args.out,
        frames=frames,
        label_stride=settings.export.label_stride,
        confidence=settings.export.confidence,
        built_with={name: version(name) for name in ("torch", "onnx", "onnxscript")},
    )
    agreement = ", ".join(f"{name} {share:.2%}" for name, share in parity["agreement"].items())
    print(f"{args.out}: logits within {parity['core_max_difference']} sd of torch; label maps agree: {agreement}")
    if differences := parity.get("confidence_difference"):
        levels = ", ".join(f"{name} {mean:.2f}" for name, mean in differences.items())
        print(f"{args.out}: mean difference of the confidence from torch, in levels of 255: {levels}")
    for line in float16_report(artifact.load(args.out, kind="onnx").meta):
        print(f"{args.out / 'fp16.onnx'}: {line}")


if __name__ == "__main__":
    sys.exit(main())
