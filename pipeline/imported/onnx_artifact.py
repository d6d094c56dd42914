"""From the description of an imported network to the ONNX artifact that `calibrate`, `quantize` and `convert` read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.export.confidence import add_confidence
from pipeline.export.export import deploy_facts
from pipeline.export.onnx_file import write_metadata
from pipeline.export.parity import float16_facts
from pipeline.frames import Array
from pipeline.imported import deploy, network, output, parity, reading
from pipeline.imported.description import Description
from pipeline.imported.network import Network
from pipeline.imported.reference import Reference
from pipeline.quantization import half_limits


def import_network(
    description: Description, out: Path, *, frames: Callable[[tuple[int, int]], Sequence[Array]]
) -> dict[str, Any]:
    """Write fp32.onnx and fp16.onnx (deploy graphs) of an ONNX file, and compare their results with those of the file.

    Args:
        frames: function from an input size (height, width) to real frames of that size, (H, W, 3) BGR uint8.

    Returns:
        the parity record.

    Raises:
        UserError: the file or its description cannot be used, or a graph's results differ from those of the file.
    """
    imported = network.load(description)
    samples = frames(imported.input_size)
    description = _with_threshold(imported, samples)
    fp32, size = deploy.build(imported, description)
    if description.confidence:
        add_confidence(fp32, output.scores(Reference(description, samples).range(), imported.form, description))
    fp16, kept = _in_float16(fp32, description, samples)
    graphs = {"fp32": fp32, "fp16": fp16}
    facts = {
        **description.labels.to_meta(),
        "mean": list(description.mean),
        "std": list(description.std),
        "input_size": list(imported.input_size),
        "model": {"name": "onnx", "options": _options(description)},
        "parameters": imported.parameters,
    }
    facts_of = partial(deploy_facts, facts, output_size=size, confidence=description.confidence)
    meta: dict[str, Any] = {
        **facts_of(precision="fp32"),
        "built_with": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        "parents": reading.hashes(description.model),
        "parity": parity.check(description, graphs, samples, size=size),
    }
    meta["float16"] = float16_facts(meta["parity"], kept)
    with artifact.create(out, kind="onnx", meta=meta) as folder:
        for precision, graph in graphs.items():
            file = folder / f"{precision}.onnx"
            onnx.save(graph, file)
            file_facts = facts_of(precision=precision)
            if precision == "fp16":
                file_facts["float16"] = {"float32_nodes": kept}
            write_metadata(file, file_facts)
    return dict(meta["parity"])


def _with_threshold(imported: Network, frames: Sequence[Array]) -> Description:
    """The description; with a threshold if the network has one channel and the description has no threshold."""
    description = imported.description
    if imported.form.channels != 1 or description.threshold is not None:
        return description
    if imported.probabilities:
        return replace(description, threshold=output.PROBABILITY)
    return replace(description, threshold=output.threshold(Reference(description, frames).range(), description))


def _options(description: Description) -> dict[str, Any]:
    """The description's choices about the file, for meta.json."""
    options: dict[str, Any] = {"file": description.model.name, "head": description.head}
    if description.threshold is not None:
        options["threshold"] = description.threshold
    if description.ids is not None:
        options["ids"] = dict(description.ids)
    return options


def _in_float16(
    fp32: onnx.ModelProto, description: Description, frames: Sequence[Array]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    try:
        graph, kept = half_limits.in_float16(fp32, frames)
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(
            f"{description.model}: cannot be converted to float16: {reading.line(error)}; {reading.AGAIN} in float32 "
            "with standard operators"
        ) from error
    return graph, kept
