"""The float network as an engine: the reference for every exported variant."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

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
        autocast: gives the context in which the network runs, such as ``torch.autocast``. Normalisation, upsampling and
            argmax are outside of it, as in training.
    """

    def __init__(
        self,
        network: SegNetwork,
        *,
        input_size: tuple[int, int],
        label_stride: int = 1,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.graph = DeployGraph(network, input_size=input_size, label_stride=label_stride)
        self.device = next(network.parameters()).device
        self.graph.to(self.device)
        self.input_size = input_size
        self.output_size = self.graph.output_size
        self._autocast = autocast

    @torch.inference_mode()
    def predict(self, frames: Tensor) -> Tensor:
        """Label maps (N, h, w) uint8 of frames (N, H, W, 3) BGR uint8; both are on the network's device.

        In memory, the network's input is (N, 3, H, W), whatever the strides of ``frames``: torch chooses kernels by
        strides, and these kernels round differently.
        """
        training = self.graph.network.training
        self.graph.eval()
        frames = frames.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
        images = self.graph.to_input(frames)
        with self._autocast():
            logits = self.graph.network(images).logits
        labels = self.graph.to_labels(logits.to(images.dtype))
        self.graph.network.train(training)
        return labels

    def run(self, frames: Array) -> Array:
        labels: Array = self.predict(torch.from_numpy(frames).to(self.device)).cpu().numpy()
        return labels
