"""A student, its ONNX and INT8 files and frames -> one tar.gz that builds, checks and answers on a device.

    python stages/bundle.py --student artifacts/students/kd --onnx artifacts/onnx/kd --int8 artifacts/int8/kd \\
        --dataset artifacts/dataset --out kd.tar.gz
    # on the device: tar xzf kd.tar.gz && sh kd/run.sh
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import artifact, bundle, params
from pipeline.errors import command
from pipeline.prepared import Prepared


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--int8", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100, help="frames to check on, evenly spaced; 100")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    settings = params.load(args.params, kinds=("runtimes",))
    student = artifact.load(args.student, kind="network")
    check = settings.check.model_dump()
    split = check.pop("split")
    bundle.write(
        args.out,
        onnx=artifact.load(args.onnx, kind="onnx"),
        int8=artifact.load(args.int8, kind="int8"),
        prepared=Prepared(args.dataset),
        split=split,
        images=args.images,
        facts={
            "student": {
                "student": args.student.name,
                "loss": student.meta["loss"]["name"],
                "parameters": student.meta["parameters"],
                "model": student.meta["model"]["name"],
            },
            "runtime": settings.convert.runtime,
            "runtime_options": settings.runtime_options,
            "check": check,
            "budgets": settings.budgets.model_dump(),
        },
    )
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB; on the device: tar xzf {args.out.name}, then sh run.sh")


if __name__ == "__main__":
    sys.exit(main())
