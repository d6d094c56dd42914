"""From a trained network to the files that every device starts from."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline import artifact
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.export import parity
from pipeline.export.graphs import CoreGraph, DeployGraph
from pipeline.export.onnx_file import AWARE, export, write_metadata
from pipeline.frames import Array
from pipeline.models import SegNetwork

#: Facts of a network that its ONNX files carry on.
CARRIED = ("classes", "palette", "ignore_index", "mean", "std", "input_size", "model", "parameters")


def deploy_facts(parent: Artifact, *, label_stride: int, precision: str) -> dict[str, Any]:
    """What a deploy graph is, for meta.json and for the ONNX file itself."""
    height, width = parent.meta["input_size"]
    return {
        **{key: parent.meta[key] for key in CARRIED},
        **({AWARE: parent.meta[AWARE]} if AWARE in parent.meta else {}),
        "channel_order": "BGR",
        "precision": precision,
        "input": {"name": "frames", "dtype": "uint8", "layout": "NHWC", "shape": [1, height, width, 3]},
        "output": {
            "name": "labels",
            "dtype": "uint8",
            "layout": "NHW",
            "shape": [1, height // label_stride, width // label_stride],
        },
    }


def export_network(
    network: SegNetwork,
    parent: Artifact,
    out: Path,
    *,
    frames: Sequence[Array],
    label_stride: int,
    built_with: Mapping[str, str],
) -> dict[str, Any]:
    """Write core.onnx (float in, logits out), fp32.onnx and fp16.onnx (deploy graphs), and check them against torch.

    Args:
        network: in eval mode; ``parent`` is the artifact it came from.
        frames: real frames of the input size, for the parity check.
        label_stride: input size / label-map size.

    Returns:
        the parity record.
    """
    height, width = parent.meta["input_size"]
    if height % label_stride or width % label_stride:
        raise UserError(f"export.label_stride: {label_stride} does not divide input_size {[height, width]}")
    image = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    meta: dict[str, Any] = {
        **deploy_facts(parent, label_stride=label_stride, precision="fp32"),
        "built_with": dict(built_with),
        "parents": {"network": parent.hash},
    }
    with artifact.create(out, kind="onnx", meta=meta) as folder:
        export(CoreGraph(network), torch.zeros(1, 3, height, width), folder / "core.onnx", inputs="x", outputs="logits")
        for precision, weights in (("fp32", network), ("fp16", copy.deepcopy(network).half())):
            graph = DeployGraph(weights, input_size=(height, width), label_stride=label_stride)
            if precision == "fp16":
                graph.half()
            export(graph, image, folder / f"{precision}.onnx", inputs="frames", outputs="labels")
            write_metadata(
                folder / f"{precision}.onnx", deploy_facts(parent, label_stride=label_stride, precision=precision)
            )
        meta["parity"] = parity.check(network, folder, frames, label_stride=label_stride)
    return dict(meta["parity"])
