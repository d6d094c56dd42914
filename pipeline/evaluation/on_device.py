"""On the device: build the engines of an unpacked bundle and measure them. Needs numpy, OpenCV and one runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline import artifact, runtimes
from pipeline.evaluation import budgets as limits
from pipeline.evaluation import environment, latency
from pipeline.evaluation.accuracy import evaluate
from pipeline.evaluation.device import describe
from pipeline.prepared import Prepared
from pipeline.runtimes import Engine

#: What a bundle holds beside the code.
FACTS, ONNX, INT8, DATASET = "bundle.json", "onnx", "int8", "dataset"
ENGINES = "engines"


def check_bundle(
    folder: Path,
    *,
    runtime: str,
    options: Mapping[str, Any],
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Build, check and time the engines of a bundle on this machine.

    Args:
        folder: the unpacked bundle; engines are built in it.
        runtime: key of the runtime plugin.
        options: of the plugin.
        say: called with a line for each step.

    Returns:
        what ``results/<student>.json`` holds, with the fp32 engine as the float reference.

    Raises:
        UserError: the bundle is damaged, or the runtime is not there or cannot build an engine.
    """
    facts = artifact.read_json(folder / FACTS, advice="unpack the bundle again")
    floats, int8 = artifact.load(folder / ONNX, kind="onnx"), artifact.load(folder / INT8, kind="int8")
    prepared = Prepared(folder / DATASET)
    frames = prepared.split(facts["split"])
    plugin = runtimes.build(runtime, dict(options))
    device = describe(plugin, name=runtime)
    say(f"{device['name']}: {len(frames)} frames of {prepared.name} {facts['split']}")
    built = runtimes.build_engines(plugin, floats, int8, folder / ENGINES, name=runtime, options=dict(options))
    variants: dict[str, dict[str, Any]] = {}
    opened: dict[str, Engine] = {}
    for precision, place in built.items():
        opened[precision], found = runtimes.open_engine(place)
        file = found.file(plugin.engine_file)
        measured, _ = evaluate(opened[precision], frames, labels=prepared.labels)
        variants[precision] = {
            "size_bytes": file.stat().st_size,
            "sha256": artifact.sha256(file),
            "runtime": f"{runtime} {found.meta['fingerprint'].get(runtime, '')}".strip(),
            **measured,
        }
        say(f"{precision}: mIoU {measured['miou']:.2f}")
    size = opened["int8"].input_size
    images = latency.frames_of(frames, size)
    chosen = facts["check"]
    conditions = [environment.conditions()]
    timing = latency.measure(opened, images, warmup=chosen["warmup"], runs=chosen["runs"], seconds=chosen["seconds"])
    conditions.append(environment.conditions())
    for precision, summary in timing.items():
        variants[precision]["latency_ms"] = summary
        say(f"{precision}: p50 {summary['p50']} ms, p99 {summary['p99']} ms")
    names = prepared.labels.names
    reference = variants["fp32"]
    lost = limits.drop({"torch": reference, "int8": variants["int8"]}, reference, names)
    del lost["miou_int8_vs_teacher"]  # no teacher here
    broken = limits.violations(facts["budgets"], lost, variants["int8"])
    return {
        **facts["student"],
        "dataset": prepared.name,
        "dataset_sha256": facts["dataset_sha256"],
        "split": facts["split"],
        "images": len(frames),
        "classes": list(names),
        "absent_classes": [n for n, iou in zip(names, reference["per_class_iou"], strict=True) if iou is None],
        "input_size": list(size),
        "device": device,
        "runtime_options": dict(options),
        "variants": variants,
        "drop": lost,
        "speedup_int8_vs_fp32": round(timing["fp32"]["p50"] / timing["int8"]["p50"], 3),
        "conditions": conditions,
        "unstable": latency.unstable(timing, cov=chosen["unstable_cov"], drift=chosen["unstable_drift"]),
        "passed": not broken,
        "violations": broken,
    }
