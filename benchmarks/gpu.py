"""Every runtime and precision on one GPU, in turns: which engine is the fastest here, and the gain of a CUDA graph.

    python benchmarks/gpu.py artifacts/onnx/kd artifacts/int8/kd artifacts/dataset [--json docs/results/gpu.json]
    python benchmarks/gpu.py artifacts/onnx/kd artifacts/int8/kd artifacts/dataset --device cpu       # a dry run

ONNX Runtime on the CPU, on CUDA and with TensorRT; TensorRT and TensorRT-RTX with and without CUDA graphs; each in
fp32, fp16 and INT8. Runtimes that are not installed, and engines that cannot be built, are listed with the reason.
Times are of one frame, host memory to host memory; `GPU` is the time of the kernels alone, if the engine measures it.
`same labels` compares with ONNX Runtime in fp32 on the CPU. `nodes` counts the nodes of an engine by the provider that
computes them, if the engine's meta.json lists them (`build.nodes`); nodes on the CPU of an engine for a GPU are named.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline import artifact, plugins, runtimes
from pipeline.artifact import Artifact
from pipeline.errors import UserError, command
from pipeline.evaluation import environment, latency
from pipeline.evaluation.fastest import PRECISIONS
from pipeline.prepared import Prepared
from pipeline.runtimes import Engine, _cuda
from pipeline.runtimes.onnxruntime import cpu_model

#: Suffix of the title, plugin, its options.
Candidate = tuple[str, str, dict[str, Any]]
ON_CPU = {"provider": "cpu"}
CANDIDATES: tuple[Candidate, ...] = (
    ("cpu", "onnxruntime", ON_CPU),
    ("cuda", "onnxruntime", {"provider": "cuda"}),
    ("tensorrt", "onnxruntime", {"provider": "tensorrt"}),
    ("graph", "tensorrt", {"cuda_graph": True}),
    ("no graph", "tensorrt", {"cuda_graph": False}),
    ("graph", "tensorrt_rtx", {"cuda_graph": True}),
    ("no graph", "tensorrt_rtx", {"cuda_graph": False}),
)
CPU_PROVIDER = "CPUExecutionProvider"
REFERENCE = "onnxruntime cpu fp32"


class Opened(NamedTuple):
    """The engines that this machine can run, the nodes of each by provider, and the reasons of the others; by title."""

    engines: dict[str, Engine]
    nodes: dict[str, dict[str, list[str]]]
    absent: dict[str, str]


def open_all(
    floats: Artifact, int8: Artifact, scratch: Path, *, candidates: Iterable[Candidate], threads: int
) -> Opened:
    """Build and load the engines of the candidates."""
    opened = Opened({}, {}, {})
    for way, name, options in candidates:
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
                opened.engines[title], engine = runtimes.open_engine(folder, options=given)
                opened.nodes[title] = engine.meta.get("build", {}).get("nodes", {})
            except UserError as error:
                opened.absent[title] = str(error)
    return opened


def counted(nodes: Mapping[str, Sequence[str]]) -> str:
    """Number of nodes by provider, the largest first.

    Example:
        >>> counted({"CUDAExecutionProvider": ["Conv a", "Conv b"], "CPUExecutionProvider": ["Shape s"]})
        'CUDA 2, CPU 1'
    """
    most_first = sorted(nodes.items(), key=lambda item: -len(item[1]))
    shares = (f"{provider.removesuffix('ExecutionProvider')} {len(names)}" for provider, names in most_first)
    return ", ".join(shares) or "not listed"


def summary(rows: list[dict[str, Any]]) -> str:
    """The fastest engine, and fp16 against fp32 in each way that has both, in one line."""
    times = {row["engine"]: row["p50"] for row in rows}
    best = min(times, key=lambda title: times[title])
    gains = [
        f"{title.removesuffix(' fp16')} {times[full] / times[title]:.2f}"
        for title in times
        if title.endswith(" fp16") and (full := f"{title.removesuffix('fp16')}fp32") in times
    ]
    return f"fastest: {best}, p50 {times[best]:.3f} ms; speed of fp16 / fp32: {', '.join(gains) or 'none'}"


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--runtimes", nargs="+", default=sorted({name for _, name, _ in CANDIDATES}))
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="cpu: the engines of the CPU only, without a GPU"
    )
    parser.add_argument("--threads", type=int, default=2, help="of ONNX Runtime on the CPU")
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each engine, at least")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    device = {"cpu": cpu_model()} if args.device == "cpu" else _cuda.device()
    if device is None:
        raise UserError(
            "no GPU: this machine has no NVIDIA GPU with a driver; run this on one that has, or add --device cpu "
            "(benchmarks/int8_speedup.py measures the CPU)"
        )
    candidates = [
        candidate
        for candidate in CANDIDATES
        if candidate[1] in args.runtimes and (args.device == "cuda" or candidate[2] == ON_CPU)
    ]
    floats, int8 = artifact.load(args.onnx, kind="onnx"), artifact.load(args.int8, kind="int8")
    frames = Prepared(args.dataset).split(args.split)
    with tempfile.TemporaryDirectory() as scratch:
        opened, nodes, absent = open_all(floats, int8, Path(scratch), candidates=candidates, threads=args.threads)
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
    table = Table(title=f"{args.onnx} on {device.get('gpu', device.get('cpu'))}")
    for column in ("engine", "p50 ms", "p99 ms", "GPU p50 ms", "GPU spread", "same labels", "nodes"):
        table.add_column(column, justify="left" if column in ("engine", "nodes") else "right")
    rows = []
    for title, times in timing.items():
        same = float(np.mean([a == b for a, b in zip(labels[title], labels[REFERENCE], strict=True)]))
        facts = {"engine": title, "same_labels": round(same, 5), "unstable": title in wavering}
        rows.append({**facts, "nodes": nodes[title], **times})
        gpu = times.get("device")
        cells = (f"{gpu['p50']:.3f}", f"{gpu['cov']:.1%}") if gpu else ("", "")
        table.add_row(title, f"{times['p50']:.3f}", f"{times['p99']:.3f}", *cells, f"{same:.2%}", counted(nodes[title]))
    console = Console()
    console.print(table)
    for title, providers in nodes.items():
        if len(providers) > 1 and CPU_PROVIDER in providers:
            console.print(f"{title}: on the CPU: {', '.join(providers[CPU_PROVIDER])}", markup=False, highlight=False)
    for title, reason in absent.items():
        console.print(f"not measured: {title}: {reason}", markup=False, highlight=False)
    print(summary(rows))
    if args.json:
        machine = {"device": device, "input_size": list(opened[REFERENCE].input_size), "threads": args.threads}
        artifact.write_text(
            args.json, artifact.dump_json({**machine, "rows": rows, "absent": absent, "conditions": conditions})
        )


if __name__ == "__main__":
    sys.exit(main())
