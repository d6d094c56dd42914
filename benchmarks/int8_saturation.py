"""Labels of the CPU's INT8 file as its kernels compute them, against exact arithmetic: with 8 bits everywhere, and as
`quantize` writes it; on this CPU, and on an emulated one without VNNI.

    python benchmarks/int8_saturation.py artifacts/onnx/kd artifacts/calibration/kd artifacts/dataset \
        --name "default student" --emulator "qemu-x86_64 -cpu Haswell" --out docs/results/int8_saturation.json

The emulator (Debian: apt-get install qemu-user) runs the same kernels that ONNX Runtime chooses on such a CPU, about a
hundred times slower: a few frames take minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime

from pipeline import artifact
from pipeline.evaluation.exactness import int8_kernels
from pipeline.frames import resize_frame
from pipeline.prepared import Prepared
from pipeline.quantization import calibration_artifact, saturation
from pipeline.quantization import graph as graphs
from pipeline.quantization.quantize import FAMILIES, Settings, Source
from pipeline.runtimes.onnxruntime import cpu_model, instructions

FILES = {"8 bits everywhere": "full.onnx", "as quantize writes it": "safe.onnx"}
ROUNDS = 120  # timed runs of each file, in turn
#: A machine's answers: labels against exact arithmetic and, for exact ones, against float32.
QUESTIONS = {"kernels": {}, "x64quantprecision": {"session.x64quantprecision": "1"}}


def session(file: Path, **entries: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def maps(opened: Any, frames: Any) -> Any:
    name = opened.get_inputs()[0].name
    return np.concatenate([opened.run(None, {name: frame[None]})[0] for frame in frames])


def agreements(folder: Path) -> dict[str, dict[str, float]]:
    """By file: percent of labels that equal those of exact arithmetic, and of float32."""
    frames = np.load(folder / "frames.npy")
    floats, agreement = maps(session(folder / "fp32.onnx"), frames), {}
    for title, file in FILES.items():
        exact = maps(session(folder / file, **{"session.disable_quant_qdq": "1"}), frames)
        got = {name: maps(session(folder / file, **entries), frames) for name, entries in QUESTIONS.items()}
        agreement[title] = {name: percent(labels == exact) for name, labels in got.items()}
        agreement[title]["kernels against float32"] = percent(got["kernels"] == floats)
        agreement[title]["exact against float32"] = percent(exact == floats)
    return agreement


def percent(equal: Any) -> float:
    return round(100 * float(np.mean(equal)), 3)


def speed(folder: Path) -> dict[str, Any]:
    """Median milliseconds of each file on one thread, run in turn, and the ratio new / old."""
    frames = np.load(folder / "frames.npy")
    opened = {title: session(folder / file) for title, file in FILES.items()}
    times: dict[str, list[float]] = {title: [] for title in opened}
    for turn in range(ROUNDS):
        for title, one in list(opened.items())[:: 1 if turn % 2 else -1]:
            started = time.perf_counter()
            maps(one, frames[turn % len(frames)][None])
            times[title].append(1e3 * (time.perf_counter() - started))
    medians = {title: round(float(np.median(values)), 3) for title, values in times.items()}
    old, new = (np.array(times[title]) for title in FILES)
    return {"p50_ms": medians, "new_over_old": round(float(np.median(new / old)), 3)}


def write(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Write the two files and the frames; returns the number of narrowed channels and of all channels."""
    source = artifact.load(args.onnx, kind="onnx")
    plain = graphs.load(str(source.file("fp32.onnx")))
    statistics = calibration_artifact.load(artifact.load(args.calibration, kind="calibration"))
    given, family = Source(plain, statistics, Settings(method="mse", bias_correction=True)), FAMILIES["cpu"]
    place = given.placing(family, family.simulated)
    onnx.save(plain.model, folder / "fp32.onnx")
    with mock.patch.object(saturation, "PAIR_MAX", math.inf):
        onnx.save(place(given.settings.kept(plain)), folder / FILES["8 bits everywhere"])
    model = place(given.settings.kept(plain))
    onnx.save(model, folder / FILES["as quantize writes it"])
    split = Prepared(args.dataset).split("val")
    size = tuple(source.meta["input_size"])
    chosen = range(0, len(split), max(1, len(split) // args.frames))[: args.frames]
    np.save(folder / "frames.npy", np.stack([resize_frame(split.frame(index), size) for index in chosen]))
    channels = sum(weight.shape[0 if weight.ndim > 2 else 1] for _, weight in saturation.quantised_layers(model))
    counts = saturation.describe(model, titles={})["narrowed_channels"].values()
    return {"frames": len(chosen), "channels": channels, "narrowed": sum(int(c.split()[0]) for c in counts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("calibration", type=Path, nargs="?")
    parser.add_argument("dataset", type=Path, nargs="?")
    parser.add_argument("--name", default="")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--only-speed", action="store_true", help="print only the times")
    parser.add_argument("--emulator", default="", help="command before python that emulates another CPU")
    parser.add_argument("--out", type=Path, help="JSON file; other networks in it stay")
    args = parser.parse_args()
    if args.calibration is None:  # the part that runs in the emulator
        print(json.dumps(agreements(args.onnx)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        figures = write(Path(scratch), args)
        figures["speed"] = speed(Path(scratch))
        if args.only_speed:
            print(json.dumps(figures["speed"], indent=2))
            return
        figures["here"] = agreements(Path(scratch))
        if args.emulator:
            command = [*shlex.split(args.emulator), sys.executable, __file__, scratch]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            figures["emulated"] = json.loads(ran.stdout)
    kernels = int8_kernels("x86_64", instructions())
    print(json.dumps(figures, indent=2))
    if args.out:
        report = json.loads(args.out.read_text()) if args.out.exists() else {"networks": {}}
        report |= {"cpu": cpu_model(), "int8_kernels": kernels, "onnxruntime": onnxruntime.__version__}
        report |= {"emulator": args.emulator or report.get("emulator", "")}
        report["networks"][args.name or args.onnx.name] = figures
        artifact.write_text(args.out, artifact.dump_json(report))


if __name__ == "__main__":
    main()
