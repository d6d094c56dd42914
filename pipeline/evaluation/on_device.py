"""On the device: build the engines of an unpacked bundle and measure them. Needs numpy, OpenCV and one runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline import artifact, runtimes
from pipeline.evaluation import environment, exactness, latency
from pipeline.evaluation.assembly import assemble, describe_engine, require_labels
from pipeline.evaluation.device import describe
from pipeline.evaluation.scoring import Score, evaluate
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
        UserError: the bundle is damaged, its frames label no class of the network, or the runtime is not there or
            cannot build an engine.
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
    scores: dict[str, Score] = {}
    opened: dict[str, Engine] = {}
    for precision, place in built.items():
        opened[precision], found = runtimes.open_engine(place)
        scores[precision] = evaluate(opened[precision], frames, labels=prepared.labels)
        require_labels(prepared, facts["split"], scores[precision])
        variants[precision] = describe_engine(found)
        say(f"{precision}: mIoU {scores[precision].summary['miou']:.2f}")
    images = latency.frames_of(frames, opened["int8"].input_size)
    chosen = facts["check"]
    conditions = [environment.conditions()]
    timing = latency.measure(opened, images, warmup=chosen["warmup"], runs=chosen["runs"], seconds=chosen["seconds"])
    conditions.append(environment.conditions())
    for precision, summary in timing.items():
        variants[precision]["latency_ms"] = summary
        say(f"{precision}: p50 {summary['p50']} ms, p99 {summary['p99']} ms")
    results = assemble(
        variants,
        scores=scores,
        about=facts["student"],
        prepared=prepared,
        dataset_sha256=facts["dataset_sha256"],
        split=facts["split"],
        device=device,
        engine=found,
        teacher=None,
        budgets=facts["budgets"],
        conditions=conditions,
        unstable_cov=chosen["unstable_cov"],
        unstable_drift=chosen["unstable_drift"],
    )
    exactness.compare(results, plugin, int8, engine=found, opened=opened["int8"], frames=images)
    return results
