"""An exponential moving average of a network's weights."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn

from pipeline.models import SegNetwork


class Average(nn.Module):
    """Weights that follow those of a network: average <- decay * average + (1 - decay) * weights, after every step.

    Batch-norm statistics are averaged too; counters are copied. The first update copies the weights; from then on the
    decay rises as (1 + n) / (10 + n) after n updates, up to ``decay``, as in TensorFlow's ExponentialMovingAverage:
    otherwise a short run would keep much of its random start.

    torch's ``AveragedModel`` does the same, but counts updates on the network's device: each update would wait for it.

    Args:
        network: the average starts from a copy of it; ``module`` is the averaged network.
        decay: in 0..1, e.g. 0.999.
    """

    n_averaged: Tensor

    def __init__(self, network: SegNetwork, *, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("n_averaged", torch.tensor(0))  # stays on the host
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, network: SegNetwork) -> None:
        """Follow the weights of a network of the same architecture."""
        updates = int(self.n_averaged)
        share = 1 - min(self._decay, (1 + updates) / (10 + updates))
        followed: tuple[list[Tensor], list[Tensor]] = ([], [])
        copied: tuple[list[Tensor], list[Tensor]] = ([], [])
        for average, current in zip(_tensors(self.module), _tensors(network), strict=True):
            averages, weights = followed if updates and average.is_floating_point() else copied
            averages.append(average)
            weights.append(current)
        if followed[0]:
            torch._foreach_lerp_(followed[0], followed[1], share)
        if copied[0]:
            torch._foreach_copy_(copied[0], copied[1])
        self.n_averaged += 1


def _tensors(network: SegNetwork) -> list[Tensor]:
    return [tensor.detach() for tensor in itertools.chain(network.parameters(), network.buffers())]
