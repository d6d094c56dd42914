"""Memory and time of a calibration pass over few and many frames, and over large ones.

    python benchmarks/calibration.py artifacts/onnx/kd                          # 8, 64 and 500 frames
    python benchmarks/calibration.py FOLDER --frames 8 32 --json FILE           # e.g. of an export at 1024x2048

Each pass runs in a process of its own, on frames of noise. Memory is the peak of that process minus its memory
after the libraries were loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline import artifact
from pipeline.errors import UserError, command
from pipeline.frames import Array
from pipeline.quantization import calibration
from pipeline.training.costs import peak_resident, reset_peak


class Noise:
    """Frames of noise, drawn one at a time."""

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self.count = count
        self.size = size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Array:
        return np.random.default_rng(index).integers(0, 256, (*self.size, 3), dtype=np.uint8)


def one_pass(folder: Path, count: int) -> dict[str, float]:
    """Seconds and MiB of a pass in this process."""
    source = artifact.load(folder, kind="onnx")
    reset_peak()
    before, start = peak_resident(), time.perf_counter()
    calibration.collect(source.file("fp32.onnx"), Noise(count, tuple(source.meta["input_size"])))
    return {"seconds": round(time.perf_counter() - start, 1), "mib": round((peak_resident() - before) / 2**20, 1)}


def elsewhere(folder: Path, count: int) -> dict[str, Any]:
    arguments = [sys.executable, __file__, str(folder), "--one", str(count)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"a pass over {count} frames failed:\n{done.stderr}")
    return {"frames": count, **json.loads(done.stdout)}


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", type=Path, help="ONNX artifact")
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 64, 500])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.one:
        print(json.dumps(one_pass(args.onnx, args.one)))
        return
    height, width = artifact.load(args.onnx, kind="onnx").meta["input_size"]
    table = Table("frames", "seconds", "extra MiB", title=f"calibration at {height}x{width}")
    rows = []
    for count in args.frames:
        rows.append(elsewhere(args.onnx, count))
        table.add_row(str(count), f"{rows[-1]['seconds']:.1f}", f"{rows[-1]['mib']:.0f}")
    Console().print(table)
    if args.json:
        known = json.loads(args.json.read_text()) if args.json.exists() else {}
        artifact.write_text(args.json, artifact.dump_json({**known, f"{height}x{width}": rows}))


if __name__ == "__main__":
    sys.exit(main())
