"""An exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from pipeline.models import SegNetwork


class Average(AveragedModel):  # type: ignore[misc, unused-ignore]
    """Weights that follow those of a network: average <- decay * average + (1 - decay) * weights, after every step.

    Batch-norm statistics are averaged too; counters are copied. The first update copies the weights; from then on the
    decay rises as (1 + n) / (10 + n) after n updates, up to ``decay``, as in TensorFlow's ExponentialMovingAverage:
    otherwise a short run would keep much of its random start.

    Args:
        network: the average starts from a copy of it; ``module`` is the averaged network.
        decay: in 0..1, e.g. 0.999.
    """

    module: SegNetwork

    def __init__(self, network: SegNetwork, *, decay: float) -> None:
        super().__init__(network, multi_avg_fn=_follower(decay), use_buffers=True)
        self.module.requires_grad_(False)


def _follower(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    @torch.no_grad()
    def follow(averages: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        count = int(updates)
        if averages[0].is_floating_point():
            torch._foreach_lerp_(list(averages), list(current), 1 - min(decay, (1 + count) / (10 + count)))
        else:
            torch._foreach_copy_(list(averages), list(current))

    return follow
