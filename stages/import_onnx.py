"""A foreign ONNX network and its description -> deploy graphs (fp32, fp16), with parity to the file checked.

python stages/import_onnx.py --description own.yaml --dataset artifacts/dataset --out artifacts/onnx/own
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import artifact
from pipeline.errors import command
from pipeline.export.parity import float16_report
from pipeline.foreign import description
from pipeline.foreign.imported import import_network
from pipeline.frames import Array, resize_frame
from pipeline.prepared import Prepared

PARITY_FRAMES = 8
#: A class with this share of all pixels says more about the description than about the frames.
NEARLY_ALL = 0.99
CAUSES = (
    "where the frames show more, look at mean and std (values in 0..255 are divided by 255), channel_order, threshold "
    "and the order of the classes"
)


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--description", type=Path, required=True, help="YAML file; its `model` names the ONNX file")
    parser.add_argument("--dataset", type=Path, required=True, help="prepared data set; its train frames check parity")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    found = description.load(args.description)
    split = Prepared(args.dataset).split("train")
    step = max(1, len(split) // PARITY_FRAMES)

    def frames(size: tuple[int, int]) -> list[Array]:
        return [resize_frame(split.frame(index), size) for index in range(0, len(split), step)[:PARITY_FRAMES]]

    parity = import_network(found, args.out, frames=frames)
    agreement = ", ".join(f"{name} {share:.2%}" for name, share in parity["agreement"].items())
    shares = ", ".join(f"{name} {share:.1%}" for name, share in parity["class_share"].items())
    print(f"{args.out}: label maps agree with {found.model.name}: {agreement}")
    print(
        f"share of each class on {parity['frames']} train frames: {shares}; if this cannot be right, correct the "
        "description"
    )
    for line in float16_report(artifact.load(args.out, kind="onnx").meta):
        print(f"{args.out / 'fp16.onnx'}: {line}")
    if "threshold" in parity:
        print(f"{found.labels.names[1]} is where its one channel is above {parity['threshold']:g}")
    for name, share in parity["class_share"].items():
        if share >= NEARLY_ALL:
            print(f"warning: nearly everything is {name}; {CAUSES}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
