"""The two graphs of a network: ``core`` from normalised image to logits, ``deploy`` from frame to label map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models import SegNetwork


def normaliser(mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Conv2d:
    """BGR 0..255 -> normalised RGB as a 1x1 convolution: one fast node, which the CPU INT8 file computes in INT8."""
    layer = nn.Conv2d(3, 3, kernel_size=1, device="meta").to_empty(device="cpu").requires_grad_(False)  # no random draw
    weight, bias = torch.zeros(3, 3, 1, 1), torch.zeros(3)
    for channel in range(3):
        weight[channel, 2 - channel] = 1 / (255 * std[channel])
        bias[channel] = -mean[channel] / std[channel]
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


class CoreGraph(nn.Module):
    """Normalised RGB floats (N, 3, H, W) -> logits (N, K, h, w)."""

    def __init__(self, network: SegNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x).logits
        return logits


class DeployGraph(nn.Module):
    """Frames as OpenCV delivers them -> label map: everything that a device computes for a frame.

    The graph contains normalisation, BGR to RGB, bilinear upsampling and argmax; the host only resizes.

    Args:
        network: the network.
        input_size: (height, width) of the frames.
        label_stride: input size / label-map size; 1 is full size, 2 and 4 are cheaper.

    Shapes: (N, H, W, 3) uint8 BGR -> (N, H / label_stride, W / label_stride) uint8 train ids.
    """

    def __init__(self, network: SegNetwork, *, input_size: tuple[int, int], label_stride: int = 1) -> None:
        super().__init__()
        self.network = network
        self.output_size = (input_size[0] // label_stride, input_size[1] // label_stride)
        self.normalise = normaliser(network.mean, network.std)

    def to_input(self, frames: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 BGR -> (N, 3, H, W) normalised RGB, in the precision of the network."""
        pixels = frames.to(self.normalise.weight.dtype)  # before the transpose: TensorRT cannot transpose uint8
        normalised: Tensor = self.normalise(pixels.permute(0, 3, 1, 2))
        return normalised

    def to_labels(self, logits: Tensor) -> Tensor:
        """(N, K, h, w) logits -> label maps (N, H / label_stride, W / label_stride) uint8."""
        logits = F.interpolate(logits, size=self.output_size, mode="bilinear", align_corners=False)
        return logits.argmax(dim=1).to(torch.uint8)

    def forward(self, frames: Tensor) -> Tensor:
        return self.to_labels(self.network(self.to_input(frames)).logits)
