"""torchvision's networks in ONNX: what torch computes, in few nodes, as core and as deploy graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from pipeline import models
from pipeline.export.graphs import CoreGraph, DeployGraph
from pipeline.export.onnx_file import export
from pipeline.models import SegNetwork
from pipeline.models.torchvision import NETWORKS

MATRIX = [(architecture, encoder) for architecture, encoders in NETWORKS.items() for encoder in encoders]
#: Networks that a default run of the tests exports; the others take longer.
SMALL = [("lraspp", "mobilenet_v3_large")]


def build(architecture: str, encoder: str) -> SegNetwork:
    torch.manual_seed(0)
    options = {"architecture": architecture, "encoder": encoder}
    return models.build("torchvision", options, num_classes=5).eval()


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [pytest.param(*each, marks=[] if each in SMALL else pytest.mark.slow) for each in MATRIX],
)
def test_the_core_graph(architecture: str, encoder: str, tmp_path: Path, run_onnx: Callable[..., Any]) -> None:
    network = build(architecture, encoder)
    size = (2 * network.facts.divisor, 3 * network.facts.divisor)
    image = torch.randn(1, 3, *size)
    file = tmp_path / "core.onnx"
    export(CoreGraph(network), image, file, inputs="x", outputs="logits")
    with torch.inference_mode():
        np.testing.assert_allclose(run_onnx(file, image.numpy()), network(image).logits.numpy(), rtol=1e-3, atol=1e-4)
    kinds = {node.op_type for node in onnx.load(file).graph.node}
    assert not {"Gather", "GatherND", "Slice", "ScatterND", "Loop"} & kinds


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "encoder"), MATRIX)
def test_the_deploy_graph(architecture: str, encoder: str, tmp_path: Path, run_onnx: Callable[..., Any]) -> None:
    network = build(architecture, encoder)
    size = (2 * network.facts.divisor, 3 * network.facts.divisor)
    frame = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    deploy = DeployGraph(network, input_size=size)
    export(deploy, frame, tmp_path / "deploy.onnx", inputs="frames", outputs="labels")
    with torch.inference_mode():
        agreement = (run_onnx(tmp_path / "deploy.onnx", frame.numpy()) == deploy(frame).numpy()).mean()
    assert agreement > 0.99
