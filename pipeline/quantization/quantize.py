"""From a float deploy graph and a calibration to the INT8 files, all made from the same statistics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from pipeline import artifact
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.export.onnx_file import write_metadata
from pipeline.quantization import calibrate, cpu, graph, sensitivity, tensorrt
from pipeline.quantization.bias_correction import correct
from pipeline.quantization.ranges import choose_all
from pipeline.quantization.sensitivity import Budget, Place
from pipeline.quantization.trial import Outcome, Trial

RANGES = "ranges.json"


@dataclass(frozen=True)
class Settings:
    """Section ``quantize`` of params.yaml.

    Attributes:
        method, percentile: how a range is chosen, see ``ranges.choose``.
        float_head: keep the classifier in float: few multiplications, and the logits keep their precision.
        float_layers: further layers that stay in float.
        bias_correction: let biases take back the mean error of rounded weights.
        budget: points that INT8 may lose on the trial's frames; the most sensitive layers stay in float until it holds.
    """

    method: str
    percentile: float = 99.99
    float_head: bool = True
    float_layers: Collection[str] = ()
    bias_correction: bool = False
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class Family:
    """A kind of target.

    Attributes:
        files: what it runs, by name: from (graph, ranges, float_nodes=) to an INT8 graph.
        simulated: the same numbers as a graph that ONNX Runtime runs fast on this machine, for trials.
        scale_type: of its weights' scales.
    """

    files: Mapping[str, Callable[..., onnx.ModelProto]]
    simulated: Callable[..., onnx.ModelProto]
    scale_type: tensorrt.ScaleType = np.float32


FAMILIES = {
    "cpu": Family({"int8_cpu.onnx": cpu.place, "int8_arm.onnx": partial(cpu.place, signed=True)}, cpu.place),
    "tensorrt": Family({"int8_tensorrt.onnx": tensorrt.place}, partial(tensorrt.place, float16=False), np.float16),
}


def quantize(
    source: Artifact,
    calibration: Artifact,
    out: Path,
    *,
    settings: Settings,
    trial: Trial | None = None,
    progress: Callable[[str, int], object] = lambda title, total: None,
) -> None:
    """Write an INT8 file for each family, and ranges.json, as an artifact of kind ``int8``.

    Args:
        source: the ONNX artifact; its fp32.onnx is quantised.
        calibration: artifact of a pass over that file.
        trial: labelled train frames to find sensitive layers on; without them nothing is searched, and a budget cannot
            be kept.
        progress: called with (title, total) after every layer.

    Raises:
        UserError: the calibration is of another network, or a layer of ``float_layers`` is not in this one.
    """
    if calibration.meta["parents"]["onnx"] != source.hash:
        raise UserError(f"{calibration.path} was made from another network than {source.path}; run dvc repro calibrate")
    plain = graph.load(str(source.file("fp32.onnx")))
    known = [layer.name for layer in plain.layers]
    if unknown := sorted(set(settings.float_layers).difference(known)):
        raise UserError(f"quantize.float_layers: no layer {', '.join(unknown)}; the network has {', '.join(known)}")
    statistics = calibrate.load(calibration)
    ranges = choose_all(statistics.histograms, method=settings.method, percentile=settings.percentile)
    kept = {*settings.float_layers, *([plain.classifier.name] if settings.float_head else [])}

    def placing(place: Callable[..., onnx.ModelProto], scale_type: tensorrt.ScaleType) -> Place:
        def placed(float_nodes: Collection[str]) -> onnx.ModelProto:
            corrected = plain
            if settings.bias_correction:
                corrected = correct(plain, statistics, float_nodes=float_nodes, scale_type=scale_type)
            return place(corrected, ranges, float_nodes=float_nodes)

        return placed

    ranking: list[tuple[str, Outcome]] = []
    if trial is not None:
        step = partial(progress, f"sensitivity of {source.path.name}", len(known))
        cpus = FAMILIES["cpu"]
        ranking = sensitivity.rank(plain, placing(cpus.simulated, cpus.scale_type), trial, progress=step)
    meta = describe(source, calibration, settings)
    meta["sensitivity"] = [{"layer": name, **asdict(outcome)} for name, outcome in ranking]
    meta["fallback"] = {}
    files: dict[str, onnx.ModelProto] = {}
    for family in FAMILIES.values():
        floats = set(kept)
        if trial is not None:
            found = sensitivity.fall_back(
                [layer for layer, _ in ranking],
                placing(family.simulated, family.scale_type),
                trial,
                settings.budget,
                kept=kept,
            )
            floats.update(found.layers)
            told = {**asdict(found.outcome), "float_layers": list(found.layers), "held": found.held}
            meta["fallback"].update(dict.fromkeys(family.files, told))
        for file, place in family.files.items():
            files[file] = placing(place, family.scale_type)(floats)
    with artifact.create(out, kind="int8", meta=meta) as folder:
        artifact.write_text(folder / RANGES, artifact.dump_json(ranges))
        for file, model in files.items():
            onnx.save(model, folder / file)
            write_metadata(folder / file, meta)


def describe(source: Artifact, calibration: Artifact, settings: Settings) -> dict[str, Any]:
    """meta.json of the INT8 artifact: what the float graph's says, and how it was quantised."""
    carried = {key: value for key, value in source.facts.items() if key != "parity"}
    libraries = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    chosen: dict[str, Any] = {
        "method": settings.method,
        "float_head": settings.float_head,
        "bias_correction": settings.bias_correction,
    }
    if settings.method == "percentile":
        chosen["percentile"] = settings.percentile
    if settings.float_layers:
        chosen["float_layers"] = sorted(settings.float_layers)
    return {
        **carried,
        "built_with": {**carried.get("built_with", {}), **libraries},
        "precision": "int8",
        "calibration_frames": calibration.meta["calibration_frames"],
        "calibration": chosen,
        "parents": {"onnx": source.hash, "calibration": calibration.hash},
    }
