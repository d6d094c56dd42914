"""On the device: build the engines of an unpacked bundle and measure them. Needs numpy, OpenCV and one runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline import artifact, runtimes
from pipeline.evaluation import fastest
from pipeline.evaluation.device import describe
from pipeline.evaluation.measure import Timing, measure, open_engines
from pipeline.prepared import Prepared

#: Content of a bundle, beside the code.
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
        folder: the unpacked bundle; engines are built in it, and the record of the fastest is written beside them.
        runtime: key of the runtime plugin.
        options: of the plugin.
        say: called with a line for each step.

    Returns:
        the content of ``results/<student>.json``, with the fp32 engine as the float reference.

    Raises:
        UserError: the bundle is damaged, its frames label no class of the network, or the runtime is missing or
            cannot build an engine.
    """
    facts = artifact.read_json(folder / FACTS, advice="unpack the bundle again")
    floats, int8 = artifact.load(folder / ONNX, kind="onnx"), artifact.load(folder / INT8, kind="int8")
    prepared = Prepared(folder / DATASET)
    plugin = runtimes.build(runtime, dict(options))
    device = describe(plugin, name=runtime)
    say(f"{device['name']}: {len(prepared.split(facts['split']))} frames of {prepared.name} {facts['split']}")
    places = runtimes.build_engines(plugin, floats, int8, folder / ENGINES, name=runtime, options=dict(options))
    variants, engine = open_engines(places)
    results, _ = measure(
        variants,
        engine=engine,
        int8=int8,
        prepared=prepared,
        dataset_sha256=facts["dataset_sha256"],
        split=facts["split"],
        about=facts["student"],
        device=device,
        teacher=None,
        budgets=facts["budgets"],
        timing=Timing.of(facts["check"]),
        say=say,
    )
    fastest.write(folder / ENGINES, results)
    return results
