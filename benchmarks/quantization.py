"""Loss and gain of each way of quantising: mIoU, the class that loses most, size and CPU latency.

    python benchmarks/quantization.py artifacts/onnx/kd artifacts/calibration/kd artifacts/dataset
    python benchmarks/quantization.py ... --json FILE --key streets/resnet10t       # added to those in FILE
    python benchmarks/quantization.py ... --qat kd artifacts/students/kd artifacts/teacher artifacts/sources/qat/kd.json

With --qat the student is also fine-tuned with 8 bits simulated, once for each family, by the pipeline's own stages.

Accuracy is that of the engine on val, against the float engine. The TensorRT file is simulated: ONNX Runtime runs it
in float32 with its Q/DQ nodes, so its accuracy is right and its latency means nothing. Latencies are taken in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from ruamel.yaml import YAML

from pipeline import artifact, runtimes
from pipeline.artifact import Artifact
from pipeline.errors import command
from pipeline.evaluation import budgets, latency
from pipeline.evaluation.scoring import evaluate
from pipeline.prepared import Prepared
from pipeline.quantization import calibration_artifact, graph, sensitivity
from pipeline.quantization.quantize import FAMILIES, Family, Settings, Source
from pipeline.quantization.sensitivity import Budget, Place
from pipeline.quantization.trial import Trial
from pipeline.runtimes import Engine

ROOT = Path(__file__).parents[1]
METHODS = ("minmax", "percentile", "entropy", "mse")


def candidates(
    source: Artifact, calibrated: Artifact, trial: Trial, *, method: str, budget: Budget
) -> dict[str, onnx.ModelProto]:
    """Every INT8 graph of the table, by title. ``method`` is the one that recovery starts from."""
    plain = graph.load(str(source.file("fp32.onnx")))
    statistics = calibration_artifact.load(calibrated)
    head = {plain.classifier.name}
    models = {}
    for title, family in FAMILIES.items():

        def placing(settings: Settings, family: Family = family) -> Place:
            return Source(plain, statistics, settings).placing(family, family.simulated)

        for name in METHODS:
            models[f"int8 {title} {name}"] = placing(Settings(method=name))(head)
        start = f"int8 {title} {method}"
        models[f"{start}, classifier too"] = placing(Settings(method=method))(())
        corrected = placing(Settings(method=method, bias_correction=True))
        models[f"{start} + bias"] = corrected(head)
        ranking = [layer for layer, _ in sensitivity.rank(plain, corrected, trial)]
        fallback = sensitivity.fall_back(ranking, corrected, trial, budget, kept=head)
        recovered = corrected({*head, *fallback.layers})
        models[f"{start} + bias + {len(fallback.layers)} layers in float"] = recovered
    return models


def fine_tuned(
    student: str, network: Path, teacher: Path, recipe: Path, *, params: Path, dataset: Path, method: str, folder: Path
) -> dict[str, onnx.ModelProto]:
    """The INT8 graphs after quantisation-aware training, by title.

    Args:
        student: key of students in the params file.
    """
    yaml = YAML()
    settings = yaml.load(params)
    settings["students"][student]["qat"] = True
    settings["quantize"]["method"] = method
    models = {}
    for title, family in FAMILIES.items():
        place = folder / title
        place.mkdir()
        settings["qat"]["target"] = title
        yaml.dump(settings, place / "params.yaml")
        chosen = ["--params", place / "params.yaml", "--dataset", dataset]
        inputs = ["--student", network, "--teacher", teacher, "--loss", recipe]
        stage("qat", *chosen, *inputs, "--name", student, "--out", place / "network")
        stage("export", *chosen, "--network", place / "network", "--out", place / "onnx")
        stage("calibrate", *chosen, "--onnx", place / "onnx", "--out", place / "calibration")
        plain = graph.load(str(place / "onnx/fp32.onnx"))
        statistics = calibration_artifact.load(artifact.load(place / "calibration", kind="calibration"))
        source = Source(plain, statistics, Settings(method=method))
        models[f"int8 {title} {method} + QAT"] = source.placing(family, family.simulated)({plain.classifier.name})
    return models


def stage(name: str, *arguments: str | Path) -> None:
    command = [sys.executable, ROOT / f"stages/{name}.py", *arguments]
    subprocess.run([str(part) for part in command], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def measure(files: dict[str, Path], prepared: Prepared, *, runs: int, threads: int) -> list[dict[str, Any]]:
    """Accuracy of every file on val, and latency of all but the simulated ones, in turns."""
    split = prepared.split("val")
    runtime = runtimes.build("onnxruntime", {"threads": threads})
    engines: dict[str, Engine] = {}
    rows = []
    names = prepared.labels.names
    for title, file in track(files.items(), description="accuracy", transient=True):
        built = file.with_suffix(".engine")
        runtime.build(file, built)
        engines[title] = runtime.load(built)
        measured = evaluate(engines[title], split, labels=prepared.labels).summary
        rows.append({"name": title, "size_bytes": built.stat().st_size, **measured})
    for row in rows:
        lost = budgets.drop(rows[0], row, names, teacher_miou=None)
        row["class_drop"], row["worst_class"] = lost["worst_class_drop"], lost["worst_class"]
    size = next(iter(engines.values())).input_size
    frames = latency.frames_of(split, size)
    timed = {title: engine for title, engine in engines.items() if "tensorrt" not in title and title != "fp16"}
    for title, timing in latency.measure(timed, frames, warmup=5, runs=runs).items():
        next(row for row in rows if row["name"] == title)["latency_ms"] = timing
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("", "mIoU", "drop", "worst class", "MB", "p50 ms", "faster")
    base = rows[0]
    for row in rows:
        timing = row.get("latency_ms")
        table.add_row(
            row["name"],
            f"{row['miou']:.2f}",
            f"{base['miou'] - row['miou']:+.2f}",
            escape(f"{row['worst_class']} {row['class_drop']:+.2f}"),
            f"{row['size_bytes'] / 1e6:.2f}",
            f"{timing['p50']:.2f}" if timing else "-",
            f"{base['latency_ms']['p50'] / timing['p50']:.2f}x" if timing else "-",
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--method", default="mse", choices=METHODS, help="that recovery starts from")
    parser.add_argument("--budget", type=float, nargs=2, default=[0.2, 0.5], metavar=("MIOU", "CLASS"))
    parser.add_argument("--trial", type=int, default=32, help="train frames that sensitivity is measured on")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--qat", nargs=4, metavar=("STUDENT", "NETWORK", "TEACHER", "RECIPE"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="for --qat")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--key", default="figures")
    args = parser.parse_args()

    source, calibrated = artifact.load(args.onnx, kind="onnx"), artifact.load(args.calibration, kind="calibration")
    prepared = Prepared(args.dataset)
    used = calibrated.meta["calibration_frames"]["names"]
    trial = Trial.on_train(prepared, source, used=used, count=args.trial, seed=0)
    budget = Budget(*args.budget)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: source.file(f"{name}.onnx") for name in ("fp32", "fp16")}
        copies = {}
        for name, file in files.items():
            copies[name] = Path(folder) / f"{name}.onnx"
            copies[name].write_bytes(file.read_bytes())
        models = candidates(source, calibrated, trial, method=args.method, budget=budget)
        if args.qat:
            student, *paths = args.qat
            network, teacher, recipe = map(Path, paths)
            places = {"params": args.params, "dataset": args.dataset, "folder": Path(folder)}
            models |= fine_tuned(student, network, teacher, recipe, method=args.method, **places)
        for index, (title, model) in enumerate(models.items()):
            copies[title] = Path(folder) / f"{index}.onnx"
            onnx.save(model, copies[title])
        rows = measure(copies, prepared, runs=args.runs, threads=args.threads)
    show(rows)
    if args.json:
        known = json.loads(args.json.read_text()) if args.json.exists() else {}
        facts = {"budget": args.budget, "threads": args.threads, "input_size": source.meta["input_size"], "rows": rows}
        artifact.write_text(args.json, artifact.dump_json({**known, args.key: facts}))


if __name__ == "__main__":
    sys.exit(main())
