"""Every runtime and precision on one GPU, in turns: which engine is the fastest here, and the gain of a CUDA graph.

    python benchmarks/gpu.py artifacts/onnx/kd artifacts/int8/kd artifacts/dataset [--json docs/results/gpu.json]

ONNX Runtime on the CPU, on CUDA and with TensorRT; TensorRT and TensorRT-RTX with and without CUDA graphs; each in
fp32, fp16 and INT8. Runtimes that are not installed, and engines that cannot be built, are listed with the reason.
Times are of one frame, host memory to host memory; `GPU` is the time of the kernels alone, if the engine measures it.
`same labels` compares with ONNX Runtime in fp32 on the CPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline import artifact, plugins, runtimes
from pipeline.artifact import Artifact
from pipeline.errors import UserError, command
from pipeline.evaluation import environment, latency
from pipeline.prepared import Prepared
from pipeline.runtimes import Engine, _cuda

#: Suffix of the title, plugin, its options.
CANDIDATES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("cpu", "onnxruntime", {"provider": "cpu"}),
    ("cuda", "onnxruntime", {"provider": "cuda"}),
    ("tensorrt", "onnxruntime", {"provider": "tensorrt"}),
    ("graph", "tensorrt", {"cuda_graph": True}),
    ("no graph", "tensorrt", {"cuda_graph": False}),
    ("graph", "tensorrt_rtx", {"cuda_graph": True}),
    ("no graph", "tensorrt_rtx", {"cuda_graph": False}),
)
PRECISIONS = ("fp32", "fp16", "int8")
REFERENCE = "onnxruntime cpu fp32"


def open_all(floats: Artifact, int8: Artifact, scratch: Path, *, names: list[str], threads: int) -> tuple[Any, Any]:
    """Build and load the engines that this machine can run; returns them by title, and the reasons of the others."""
    opened: dict[str, Engine] = {}
    absent: dict[str, str] = {}
    for way, name, options in (candidate for candidate in CANDIDATES if candidate[1] in names):
        takes_threads = "threads" in plugins.signature(plugins.load("runtimes", name))
        given = {**options, "threads": threads} if takes_threads else options
        for precision in PRECISIONS:
            title, folder = f"{name} {way} {precision}", scratch / f"{name} {given.get('provider', '')} {precision}"
            try:
                runtime = runtimes.build(name, given)
                if not folder.exists():  # recorded at load: the engine file is the same with and without a graph
                    source = int8 if precision == "int8" else floats
                    file = f"{runtime.int8_variant if precision == 'int8' else precision}.onnx"
                    meta = {**source.facts, "precision": precision, "parents": {source.kind: source.hash}}
                    runtimes.build_engine(runtime, source.file(file), folder, name=name, options=given, meta=meta)
                opened[title], _ = runtimes.open_engine(folder, options=given)
            except UserError as error:
                absent[title] = str(error)
    return opened, absent


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--runtimes", nargs="+", default=sorted({name for _, name, _ in CANDIDATES}))
    parser.add_argument("--threads", type=int, default=2, help="of ONNX Runtime on the CPU")
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each engine, at least")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    device = _cuda.device()
    if device is None:
        raise UserError(
            "no GPU: this machine has no NVIDIA GPU with a driver; run this on one that has "
            "(benchmarks/int8_speedup.py measures the CPU)"
        )
    floats, int8 = artifact.load(args.onnx, kind="onnx"), artifact.load(args.int8, kind="int8")
    frames = Prepared(args.dataset).split(args.split)
    with tempfile.TemporaryDirectory() as scratch:
        opened, absent = open_all(floats, int8, Path(scratch), names=args.runtimes, threads=args.threads)
        if REFERENCE not in opened:
            raise UserError(f"{REFERENCE} is the reference of all engines: {absent.get(REFERENCE, 'not chosen')}")
        images = latency.frames_of(frames, opened[REFERENCE].input_size)
        labels = {title: [engine.run(image[None]) for image in images] for title, engine in opened.items()}
        conditions = [environment.conditions()]
        timing = latency.measure(opened, images, warmup=args.warmup, runs=args.runs, seconds=args.seconds)
        conditions.append(environment.conditions())
        for engine in opened.values():
            engine.close()
    wavering = latency.unstable(timing, cov=0.3, drift=0.05)
    table = Table(title=f"{args.onnx} on {device['gpu']}")
    for column in ("engine", "p50 ms", "p99 ms", "GPU p50 ms", "GPU spread", "same labels"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    rows = []
    for title, times in timing.items():
        same = float(np.mean([a == b for a, b in zip(labels[title], labels[REFERENCE], strict=True)]))
        rows.append({"engine": title, "same_labels": round(same, 5), "unstable": title in wavering, **times})
        gpu = times.get("device")
        cells = (f"{gpu['p50']:.3f}", f"{gpu['cov']:.1%}") if gpu else ("", "")
        table.add_row(title, f"{times['p50']:.3f}", f"{times['p99']:.3f}", *cells, f"{same:.2%}")
    console = Console()
    console.print(table)
    for title, reason in absent.items():
        console.print(f"not measured: {title}: {reason}", markup=False, highlight=False)
    if args.json:
        facts = {"device": device, "input_size": list(opened[REFERENCE].input_size), "threads": args.threads}
        artifact.write_text(
            args.json, artifact.dump_json({**facts, "rows": rows, "absent": absent, "conditions": conditions})
        )


if __name__ == "__main__":
    sys.exit(main())
