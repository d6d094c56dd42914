"""Write the fingerprint of this machine; engines and measurements depend on it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import artifact, runtimes
from pipeline.errors import command
from pipeline.evaluation.device import describe
from pipeline.settings import params


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    settings = params.load(args.params)
    name = settings.convert.runtime
    runtime = runtimes.build(name, settings.runtime_options)
    device = describe(runtime, name=name)
    artifact.write_text(args.out, artifact.dump_json(device))
    kernels = f"; INT8 kernels: {device['int8_kernels']}" if "int8_kernels" in device else ""
    print(f"{args.out}: {device['name']}{kernels}")


if __name__ == "__main__":
    sys.exit(main())
