"""Write ONNX files: torch.onnx.export with fixed shapes, and the artifact's facts inside the file."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

#: Opset 18 runs on every ONNX Runtime since 1.14, also with CUDA (Resize of opset 19 ran on the CPU until 2026).
OPSET = 18
METADATA_KEY = "segpress"
#: Key of meta.json for networks that were fine-tuned with 8 bits simulated; its value holds the settings and metrics.
AWARE = "quantization_aware"


def export(graph: nn.Module, example: Tensor, file: Path, *, inputs: str, outputs: str) -> None:
    """Export a graph in eval mode with the shapes of ``example``, to one file with weights and reproducible bytes."""
    for library in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.eval(),
            (example,),
            str(file),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=[inputs],
            output_names=[outputs],
            verbose=False,
        )
    model = onnx.load(file)
    strip_traces(model)
    onnx.save(model, file)


def strip_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes about its own run (source lines, paths): they are no facts about the network."""
    del model.metadata_props[:]
    model.doc_string = ""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.graph.metadata_props[:]


def write_metadata(file: Path, meta: Mapping[str, Any]) -> None:
    """Store the facts of an artifact in the file's ``metadata_props``, which ONNX Runtime can read."""
    model = onnx.load(file)
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(meta, sort_keys=True)})
    onnx.save(model, file)
