"""From a float deploy graph and a calibration to the INT8 files; all files come from the same statistics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from pipeline import artifact
from pipeline.artifact import CPU_FILE, Artifact
from pipeline.errors import UserError, closest
from pipeline.export.onnx_file import AWARE, write_metadata
from pipeline.quantization import calibration_artifact, cpu, half_limits, saturation, sensitivity, tensorrt
from pipeline.quantization import graph as graphs
from pipeline.quantization.bias_correction import RoundWeight, correct
from pipeline.quantization.calibration import Statistics
from pipeline.quantization.graph import Graph
from pipeline.quantization.half import LARGEST, element_types
from pipeline.quantization.half_limits import Extremes
from pipeline.quantization.ranges import Ranges, choose_all
from pipeline.quantization.scales import quantize_per_channel
from pipeline.quantization.sensitivity import Budget, Fallback, Place
from pipeline.quantization.trial import Outcome, Trial

RANGES = "ranges.json"


@dataclass(frozen=True)
class Settings:
    """Section ``quantize`` of params.yaml.

    Attributes:
        method, percentile: how a range is chosen, see ``ranges.choose``.
        float_head: keep the classifier in float. It has few multiplications, and the logits keep their precision.
        float_layers: further layers that stay in float: names as in ``Graph.titles``, or patterns with ``*``.
        bias_correction: change biases so that they cancel the mean error of rounded weights. It is skipped for a
            network that was trained with rounded weights, where it would do harm.
        budget: points that INT8 may lose on the trial's frames; the most sensitive layers stay in float until the
            budget holds.
    """

    method: str
    percentile: float = 99.99
    float_head: bool = True
    float_layers: Collection[str] = ()
    bias_correction: bool = False
    budget: Budget = field(default_factory=Budget)

    def kept(self, plain: Graph) -> set[str]:
        """Names of the nodes that stay in float without any measurement."""
        head = {plain.classifier.name} if self.float_head else set()
        return named(plain, self.float_layers) | head


Placement = Callable[..., onnx.ModelProto]  # (graph, ranges, float_nodes=)


@dataclass(frozen=True)
class Family:
    """A family of targets.

    Attributes:
        files: its INT8 files: name and placement of each.
        simulated: placement of a graph with the same results that ONNX Runtime runs fast on this machine, for trials.
        round_weight: how its placements round the weight of a convolution.
        half: whether the parts of its files that are not INT8 are float16.
        symmetric: whether activations have their zero-point at 0.
        on_cpu: whether a CPU runs its files, so that a trial may use the CPU's INT8 kernels.
    """

    files: Mapping[str, Placement]
    simulated: Placement
    round_weight: RoundWeight
    half: bool = False
    symmetric: bool = False
    on_cpu: bool = True


FAMILIES = {
    "cpu": Family(
        {CPU_FILE: cpu.place, "int8_arm.onnx": partial(cpu.place, signed=True)}, cpu.place, saturation.quantize
    ),
    "tensorrt": Family(
        {"int8_tensorrt.onnx": tensorrt.place},
        tensorrt.simulate,
        lambda layer, weight: quantize_per_channel(weight, 0, scale_type=np.float16),
        half=True,
        symmetric=True,
        on_cpu=False,
    ),
}


@dataclass(frozen=True)
class Source:
    """A float graph and the statistics of its activations.

    Attributes:
        float32: names of the nodes that do not work in float16, each with its reason.
    """

    graph: Graph
    statistics: Statistics
    settings: Settings
    float32: Mapping[str, str] = field(default_factory=dict)

    def ranges(self, family: Family) -> Ranges:
        """(low, high) of every float activation, by the settings' method."""
        return choose_all(
            self.statistics.histograms,
            method=self.settings.method,
            percentile=self.settings.percentile,
            symmetric=family.symmetric,
        )

    def placing(self, family: Family, placement: Placement) -> Place:
        """A function from the nodes that stay in float to the INT8 graph, with bias correction if it is switched on."""
        ranges = self.ranges(family)
        options = {"float32": self.float32} if family.half else {}

        def place(float_nodes: Collection[str]) -> onnx.ModelProto:
            graph = self.graph
            if self.settings.bias_correction:
                graph = correct(graph, self.statistics, float_nodes=float_nodes, round_weight=family.round_weight)
            return placement(graph, ranges, float_nodes=float_nodes, **options)

        return place


def quantize(
    source: Artifact,
    calibration: Artifact,
    out: Path,
    *,
    settings: Settings,
    trial: Trial | None = None,
    progress: Callable[[str, int], object] = lambda title, total: None,
) -> None:
    """Write the INT8 files of all families, and their ranges, as an artifact of kind ``int8``.

    Args:
        source: the ONNX artifact; its fp32.onnx is quantised.
        calibration: artifact of a pass over that file.
        trial: labelled train frames on which sensitive layers are searched; without it there is no search, and no
            budget is checked.
        progress: called with (title, total) after every layer.

    Raises:
        UserError: the calibration is of another network, or ``float_layers`` matches no layer of this one.
    """
    if calibration.meta["parents"]["onnx"] != source.hash:
        raise UserError(f"{calibration.path} is of another network than {source.path}; run dvc repro calibrate")
    plain = graphs.load(str(source.file("fp32.onnx")))
    if AWARE in source.facts:  # it was trained with rounded weights: there is no shift to correct
        settings = replace(settings, bias_correction=False)
    statistics = calibration_artifact.load(calibration)
    network = Source(plain, statistics, settings, float32=spoiled(source, plain, statistics))
    kept = settings.kept(plain)
    ranking: list[tuple[str, Outcome]] = []
    if trial is not None:
        step = partial(progress, f"sensitivity of {source.path.name}", len(plain.layers))
        place = network.placing(FAMILIES["cpu"], FAMILIES["cpu"].simulated)
        ranking = sensitivity.rank(plain, place, trial, progress=step)
    meta = describe(source, calibration, settings)
    meta["sensitivity"] = [{"layer": plain.titles[name], **outcome.facts()} for name, outcome in ranking]
    meta["fallback"], meta["in_float"] = {}, {}
    files: dict[str, onnx.ModelProto] = {}
    for family in FAMILIES.values():
        floats = kept
        if trial is not None:
            place, order = network.placing(family, family.simulated), [name for name, _ in ranking]
            sums = {node.name for node in plain.sums}
            comparable = trial if family.on_cpu else trial.exactly()
            fallback = sensitivity.fall_back(order, place, comparable, settings.budget, kept=kept, sums=sums)
            floats = kept.union(fallback.layers, fallback.sums)
            meta["fallback"].update(dict.fromkeys(family.files, _describe_fallback(fallback, settings.budget)))
        titles = [title for name, title in plain.titles.items() if name in floats]
        for file, placement in family.files.items():
            files[file] = network.placing(family, placement)(floats)
            operators = graphs.in_float(plain, files[file], float_nodes=floats)
            meta["in_float"][file] = {"layers": titles, "operators": operators}
            if family.half:
                meta["float16"] = {"float32_nodes": in_float32(files[file], plain, network.float32)}
                if overflows := overflowing(source, statistics):
                    meta["float16"]["fp16_overflows"] = overflows
    meta |= saturation.describe(files[CPU_FILE], titles=plain.titles)
    if trial is not None:
        meta["exact_agreement"] = {CPU_FILE: trial.exact_agreement(files[CPU_FILE])}
    with artifact.create(out, kind="int8", meta=meta) as folder:
        ranges = {name: network.ranges(family) for name, family in FAMILIES.items()}
        artifact.write_text(folder / RANGES, artifact.dump_json(ranges))
        for file, model in files.items():
            onnx.save(model, folder / file)
            write_metadata(folder / file, meta)


def spoiled(source: Artifact, plain: Graph, statistics: Statistics) -> dict[str, str]:
    """Nodes that do not work in float16, on the frames of the export or on those of the calibration."""
    on_export = source.facts.get("float16", {}).get("float32_nodes", {})
    return {**half_limits.float32_nodes(plain.model, Extremes(peaks(statistics))), **on_export}


def overflowing(source: Artifact, statistics: Statistics) -> dict[str, str]:
    """Float16 tensors of fp16.onnx that overflow on calibration frames, each with its largest magnitude."""
    kinds = element_types(onnx.load(source.file("fp16.onnx")))
    return {
        name: f"{peak:.3g}"
        for name, peak in sorted(peaks(statistics).items())
        if peak > LARGEST and kinds.get(name) == onnx.TensorProto.FLOAT16
    }


def peaks(statistics: Statistics) -> dict[str, float]:
    """The largest magnitude of every calibrated tensor."""
    histograms = statistics.histograms.items()
    return {name: max(abs(histogram.minimum), abs(histogram.maximum)) for name, histogram in histograms}


def in_float32(placed: onnx.ModelProto, plain: Graph, reasons: Mapping[str, str]) -> dict[str, str]:
    """The nodes of the float graph that are float32 in a placed graph, each with its reason."""
    kinds = element_types(placed)
    names = {node.name for node in plain.nodes}
    readers = [node for node in placed.graph.node if node.name in names and any(n.endswith("_dq") for n in node.input)]
    wide = [node.name for node in readers if kinds.get(node.output[0]) == onnx.TensorProto.FLOAT]
    return {**dict.fromkeys(wide, "it shares Q/DQ whose scales or readers need float32"), **reasons}


def named(plain: Graph, patterns: Collection[str]) -> set[str]:
    """Node names of the layers whose titles match a pattern. Raises UserError for a pattern that matches no layer."""
    names: set[str] = set()
    for pattern in patterns:
        matching = {node for node, title in plain.titles.items() if fnmatchcase(title, pattern)}
        if not matching:
            raise UserError(
                f"quantize.float_layers: '{pattern}' matches no layer; {closest(pattern, plain.titles.values())}"
            )
        names |= matching
    return names


def _describe_fallback(fallback: Fallback, budget: Budget) -> dict[str, Any]:
    """The loss in a trial, and whether the budget holds; ``undecided`` names what the frames cannot decide."""
    drops, facts = fallback.outcome.drops, {**fallback.outcome.facts(), "held": fallback.held}
    if drops.confidence is not None:
        (_, worst), undecided = drops.worst, budget.undecided(fallback.outcome)
        facts["confidence"], facts["frames"], facts["undecided"] = drops.confidence, drops.frames, undecided
        facts["miou_interval"], facts["class_interval"] = drops.miou.interval, worst.interval
    return {**facts, "sums_in_float": True} if fallback.sums else facts


def describe(source: Artifact, calibration: Artifact, settings: Settings) -> dict[str, Any]:
    """meta.json of the INT8 artifact: the facts of the float graph, and how it was quantised."""
    carried = {key: value for key, value in source.facts.items() if key not in ("parity", "float16")}
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
