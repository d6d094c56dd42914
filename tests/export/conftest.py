"""A network of two convolutions, and the deploy graph written again in numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from pipeline.export.graphs import DeployGraph
from pipeline.export.onnx_file import export
from pipeline.models import NetworkFacts, SegNetwork, SegOutput

Floats = npt.NDArray[np.float64]


class Tiny(SegNetwork):
    """Two strided convolutions. Mean and std differ for each channel, so that a test fails if channels are swapped."""

    facts = NetworkFacts(channels=8, stage_channels=(8,), output_stride=4, divisor=4)
    mean = (0.2, 0.5, 0.7)
    std = (0.1, 0.3, 0.6)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.classifier = nn.Conv2d(8, 5, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> SegOutput:
        embedding = torch.relu(self.first(x))
        return SegOutput(logits=self.classifier(embedding), embedding=embedding)


def write_deploy_graph(network: SegNetwork, file: Path, *, label_stride: int = 1) -> None:
    """Export the deploy graph for frames of 32x48."""
    graph = DeployGraph(network, input_size=(32, 48), label_stride=label_stride)
    export(graph, torch.zeros(1, 32, 48, 3, dtype=torch.uint8), file, inputs="frames", outputs="labels")


def bilinear(x: Floats, height: int, width: int) -> Floats:
    """(K, h, w) -> (K, height, width), half-pixel centres, as align_corners=False defines it."""

    def weights(size: int, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
        centre = np.clip((np.arange(count) + 0.5) * size / count - 0.5, 0, size - 1)
        lower = np.floor(centre).astype(np.int64)
        return lower, np.minimum(lower + 1, size - 1), centre - lower

    top, bottom, down = weights(x.shape[1], height)
    left, right, along = weights(x.shape[2], width)
    rows = x[:, top] * (1 - down)[:, None] + x[:, bottom] * down[:, None]
    return np.asarray(rows[:, :, left] * (1 - along) + rows[:, :, right] * along)


@pytest.fixture(scope="session")
def tiny() -> SegNetwork:
    torch.manual_seed(3)
    return Tiny().eval()


@pytest.fixture(scope="session")
def plain_scores() -> Callable[..., Floats]:
    """Frame -> upsampled logits (K, h, w), step by step, in float64."""

    def scores(network: SegNetwork, frame: npt.NDArray[np.uint8], *, label_stride: int) -> Floats:
        rgb = frame[..., [2, 1, 0]].astype(np.float64) / 255
        x = np.stack([(rgb[..., c] - network.mean[c]) / network.std[c] for c in range(3)])
        with torch.inference_mode():
            logits = network.double()(torch.from_numpy(x)[None]).logits[0].numpy()
        network.float()
        return bilinear(logits, frame.shape[0] // label_stride, frame.shape[1] // label_stride)

    return scores


@pytest.fixture(scope="session")
def run_onnx() -> Callable[..., Any]:
    """Run an ONNX file with every optimisation off."""

    def run(file: Any, value: npt.NDArray[Any]) -> Any:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: value})[0]

    return run


@pytest.fixture(scope="session")
def export_of() -> Callable[..., Path]:
    """``export_of(network, folder, label_stride=1)`` writes the deploy graph for frames of 32x48."""

    def write(network: SegNetwork, folder: Path, *, label_stride: int) -> Path:
        file = folder / "deploy.onnx"
        write_deploy_graph(network, file, label_stride=label_stride)
        return file

    return write
