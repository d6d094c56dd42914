"""The float network behind the engine contract: the reference that every exported variant is compared with."""

from __future__ import annotations

import torch

from pipeline.export.graphs import DeployGraph
from pipeline.frames import Array
from pipeline.models import SegNetwork
from pipeline.runtimes import Engine


class TorchEngine(Engine):
    """Runs a network in torch as a deploy graph; leaves the network's train/eval mode as it was.

    Args:
        network: stays on its device.
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
