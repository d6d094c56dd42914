"""The float network as an engine: the reference for every exported variant."""

from __future__ import annotations

import torch

from pipeline.export.graphs import DeployGraph
from pipeline.frames import Array
from pipeline.models import SegNetwork
from pipeline.runtimes import Engine


class TorchEngine(Engine):
    """Runs a network in torch as a deploy graph; the network's train or eval mode does not change.

    Args:
        network: it stays on its device.
        input_size: (height, width).
        label_stride: see :class:`DeployGraph`.
    """

    def __init__(self, network: SegNetwork, *, input_size: tuple[int, int], label_stride: int = 1) -> None:
        self.graph = DeployGraph(network, input_size=input_size, label_stride=label_stride)
        self.device = next(network.parameters()).device
        self.graph.to(self.device)
        self.input_size = input_size
        self.output_size = self.graph.output_size

    @torch.inference_mode()
    def run(self, frames: Array) -> Array:
        training = self.graph.network.training
        self.graph.eval()
        labels: Array = self.graph(torch.from_numpy(frames).to(self.device)).cpu().numpy()
        self.graph.network.train(training)
        return labels
