"""fp32 against INT8 on this CPU, network and deploy graph, in turns: the speed-up that the README quotes.

    python benchmarks/int8_speedup.py artifacts/onnx/kd artifacts/int8/kd [--json docs/results/int8_speedup.json]

The network is the deploy graph up to the logits, without upsampling and argmax. Times are per frame, host memory to
host memory.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from rich.console import Console
from rich.table import Table

from pipeline import artifact
from pipeline.errors import command
from pipeline.evaluation.latency import summary
from pipeline.quantization import graph as graphs
from pipeline.runtimes.onnxruntime import cpu_model


def session(file: Path, *, threads: int, spinning: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def network(deploy: Path, ends: tuple[str, str], target: Path) -> Path:
    """The part of a deploy graph from the frame to the logits."""
    onnx.utils.extract_model(str(deploy), str(target), [ends[0]], [ends[1]])
    return target


def measure(sessions: dict[str, onnxruntime.InferenceSession], *, runs: int) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(0)
    feeds = {}
    for name, opened in sessions.items():
        source = opened.get_inputs()[0]
        shape = [int(side) for side in source.shape]
        uint8 = source.type == "tensor(uint8)"
        value = rng.integers(0, 256, shape, dtype=np.uint8) if uint8 else rng.standard_normal(shape, dtype=np.float32)
        feeds[name] = {source.name: value}
    samples: dict[str, list[float]] = {name: [] for name in sessions}
    for run in range(runs + 20):
        for name, opened in sessions.items():
            start = time.perf_counter()
            opened.run(None, feeds[name])
            if run >= 20:
                samples[name].append(1e3 * (time.perf_counter() - start))
    return {name: summary(np.asarray(values)) for name, values in samples.items()}


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    files = {"fp32": args.onnx / "fp32.onnx", "int8": args.int8 / "int8_cpu.onnx"}
    graph = graphs.load(str(files["fp32"]))
    ends = (graph.model.graph.input[0].name, graph.classifier.output[0])
    table = Table(title=f"{args.onnx}: fp32 against INT8, {cpu_model()}")
    for column in ("threads", "spinning", "graph", "fp32 p50 ms", "INT8 p50 ms", "speed-up"):
        table.add_column(column, justify="right")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        networks = {name: network(file, ends, Path(scratch) / f"{name}.onnx") for name, file in files.items()}
        graphs_of = (("network", networks), ("deploy", files))
        for threads, spinning, (title, chosen) in itertools.product(args.threads, (False, True), graphs_of):
            opened = {name: session(file, threads=threads, spinning=spinning) for name, file in chosen.items()}
            timing = measure(opened, runs=args.runs)
            ratio = timing["fp32"]["p50"] / timing["int8"]["p50"]
            setting = {"threads": threads, "spinning": spinning, "graph": title}
            rows.append({**setting, "speedup": round(ratio, 3), **timing})
            cells = (f"{timing['fp32']['p50']:.2f}", f"{timing['int8']['p50']:.2f}", f"{ratio:.2f}x")
            table.add_row(*(str(value) for value in setting.values()), *cells)
    Console().print(table)
    if args.json:
        facts = {"cpu": cpu_model(), "onnxruntime": onnxruntime.__version__, "rows": rows}
        artifact.write_text(args.json, artifact.dump_json(facts))


if __name__ == "__main__":
    sys.exit(main())
