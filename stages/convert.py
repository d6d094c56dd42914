"""ONNX -> engines (fp32, fp16, int8) of the chosen runtime, built on the machine that runs them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import artifact, runtimes
from pipeline.errors import UserError, command
from pipeline.evaluation.device import describe
from pipeline.quantization.tensorrt_release import release
from pipeline.settings import params


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--device", type=Path, required=True, help="fingerprint that stages/device.py wrote")
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--int8", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    settings = params.load(args.params, kinds=("runtimes",))
    name, options = settings.convert.runtime, settings.runtime_options
    runtime = runtimes.build(name, options)
    device = artifact.read_json(args.device, advice="write it with: dvc repro device")
    if device != describe(runtime, name=name):
        raise UserError(f"{args.device} describes another machine or runtime; run dvc repro, which writes it again")
    floats, int8 = artifact.load(args.onnx, kind="onnx"), artifact.load(args.int8, kind="int8")
    built = runtimes.build_engines(runtime, floats, int8, args.out, name=name, options=options, release=release)
    for folder in built.values():
        print(f"{folder}: {name} engine, {(folder / runtime.engine_file).stat().st_size / 1e6:.2f} MB")
        how = artifact.load(folder, kind="engine", verify=False).meta["build"]
        for rung, reason in how.get("failed_rungs", {}).items():
            print(f"  built {how['rung']}, because {rung} failed: {reason}")
        if "released" in how:
            print(f"  in float: {', '.join(how['released'])}")


if __name__ == "__main__":
    sys.exit(main())
