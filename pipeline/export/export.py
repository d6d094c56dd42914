"""From a trained network to ONNX files; every device builds its engines from these files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch

from pipeline import artifact
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.export import parity
from pipeline.export.confidence import CONFIDENCE, add_confidence
from pipeline.export.graphs import CoreGraph, DeployGraph
from pipeline.export.onnx_file import AWARE, export, write_metadata
from pipeline.frames import Array
from pipeline.models import SegNetwork
from pipeline.quantization import half_limits

#: Facts of every network that are copied into its ONNX files.
CARRIED = ("classes", "palette", "ignore_index", "mean", "std", "input_size", "model", "parameters")
#: Facts that only some networks have; they are copied too.
CARRIED_IF_THERE = ("original_ids", "original_ignored", "weights", AWARE)


def deploy_facts(
    network: Mapping[str, Any], *, output_size: tuple[int, int], precision: str, confidence: bool = False
) -> dict[str, Any]:
    """Facts about a deploy graph, for meta.json and for the ONNX file itself.

    Args:
        network: facts of the network; those of ``CARRIED`` are required.
        output_size: (height, width) of the label maps.
        precision: fp32 or fp16.
        confidence: whether the graph has the second output.
    """
    height, width = network["input_size"]
    label_map = {"dtype": "uint8", "layout": "NHW", "shape": [1, *output_size]}
    return {
        **{key: network[key] for key in CARRIED},
        **{key: network[key] for key in CARRIED_IF_THERE if key in network},
        "channel_order": "BGR",
        "precision": precision,
        "input": {"name": "frames", "dtype": "uint8", "layout": "NHWC", "shape": [1, height, width, 3]},
        "output": {"name": "labels", **label_map},
        **({"confidence": {"name": CONFIDENCE, **label_map}} if confidence else {}),
    }


def export_network(
    network: SegNetwork,
    parent: Artifact,
    out: Path,
    *,
    frames: Sequence[Array],
    label_stride: int,
    confidence: bool = False,
    built_with: Mapping[str, str],
) -> dict[str, Any]:
    """Write core.onnx (float in, logits out), fp32.onnx and fp16.onnx (deploy graphs), and check them against torch.

    Args:
        network: in eval mode; loaded from the artifact ``parent``.
        out: folder of the artifact to write, of kind ``onnx``.
        frames: real frames of the input size, (H, W, 3) BGR uint8: for the parity check, and to find the nodes that do
            not work in float16.
        label_stride: input size / label-map size.
        confidence: add the second output, see :func:`pipeline.export.confidence.add_confidence`.
        built_with: versions of libraries, for meta.json.

    Returns:
        the parity record, see :func:`pipeline.export.parity.check`.

    Raises:
        UserError: ``label_stride`` does not divide the input size, or a graph differs from torch.
    """
    height, width = parent.meta["input_size"]
    if height % label_stride or width % label_stride:
        raise UserError(
            f"export.label_stride: got {label_stride}, which does not divide input_size {[height, width]}; allowed: a "
            "divisor of both, such as 1"
        )
    image = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    output_size = (height // label_stride, width // label_stride)
    facts_of = partial(deploy_facts, parent.meta, output_size=output_size, confidence=confidence)
    meta: dict[str, Any] = {
        **facts_of(precision="fp32"),
        "built_with": dict(built_with),
        "parents": {"network": parent.hash},
    }
    with artifact.create(out, kind="onnx", meta=meta) as folder:
        export(CoreGraph(network), torch.zeros(1, 3, height, width), folder / "core.onnx", inputs="x", outputs="logits")
        graph = DeployGraph(network, input_size=(height, width), label_stride=label_stride)
        export(graph, image, folder / "fp32.onnx", inputs="frames", outputs="labels")
        model = onnx.load(folder / "fp32.onnx")
        if confidence:
            add_confidence(model)
            onnx.save(model, folder / "fp32.onnx")
        half, kept = half_limits.in_float16(model, frames)
        onnx.save(half, folder / "fp16.onnx")
        for precision in ("fp32", "fp16"):
            facts = facts_of(precision=precision)
            if precision == "fp16":
                facts["float16"] = {"float32_nodes": kept}
            write_metadata(folder / f"{precision}.onnx", facts)
        meta["parity"] = parity.check(network, folder, frames, label_stride=label_stride)
        meta["float16"] = parity.float16_facts(meta["parity"], kept)
    return dict(meta["parity"])
