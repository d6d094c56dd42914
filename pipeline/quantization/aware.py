"""Quantisation-aware training: prepare a network for fine-tuning with the roundings of its INT8 graph."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from pipeline.export.graphs import DeployGraph
from pipeline.export.onnx_file import export
from pipeline.models import SegNetwork
from pipeline.quantization import calibration
from pipeline.quantization import graph as graphs
from pipeline.quantization.calibration import FrameSource
from pipeline.quantization.quantize import FAMILIES, Settings, Source
from pipeline.quantization.simulated import Roundings, SimulatedNetwork


def simulate(
    network: SegNetwork, frames: FrameSource, *, input_size: tuple[int, int], target: str, settings: Settings
) -> SimulatedNetwork:
    """The network with the roundings of its INT8 graph; the activation ranges come from a new calibration.

    Args:
        network: in eval mode; its weights are shared, not copied.
        frames: (H, W, 3) BGR uint8 of ``input_size``, from train.
        input_size: (height, width) of the deployed network.
        target: key of ``quantize.FAMILIES``.
        settings: how ranges are chosen and which layers stay in float.
    """
    family = FAMILIES[target]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fp32.onnx"
        frame = torch.zeros(1, *input_size, 3, dtype=torch.uint8)
        export(DeployGraph(network, input_size=input_size), frame, file, inputs="frames", outputs="labels")
        plain = graphs.load(str(file))
        source = Source(plain, calibration.collect(file, frames), settings)
    int8_graph = source.placing(family, family.simulated)(settings.kept(plain))
    return SimulatedNetwork(network, Roundings.of(int8_graph, plain))
