"""The teacher's features on a standard scale, so that a loss on their values does not depend on the teacher's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.losses._distributed import mean_over_processes
from pipeline.losses._padding import filled

#: What :class:`Standardised` does: nothing; divides by one number; standardises each channel.
Standard = Literal["none", "teacher", "channels"]
CONSTANT = 1e-6  # features whose variance is below this share of their mean square count as constant
LEAST = 0.1  # of the deviation of all channels: a channel that varies less is divided by this share of it (ours)


class Standardised(nn.Module):
    """Features of a frozen teacher, divided by their deviation over all training steps so far.

    State (buffers, in the loss's ``state_dict``): ``passes`` () the number of training passes, ``moments`` (2, C) the
    means over them of each channel and of its square. Every process counts the batches of all processes, so the buffers
    are equal without a broadcast. Before the first training pass, the batch at hand gives the moments.

    Args:
        channels: C.
        how: ``teacher`` divides by one number, the square root of the mean variance of the channels; ``channels`` also
            subtracts the mean of each channel, and divides by its own deviation.

    Shapes: features (N, C, h, w), without gradient; valid (N, h, w) bool, positions that give the moments; None: all.
    Returns the shape of the features.
    """

    passes: Tensor
    moments: Tensor

    def __init__(self, channels: int, *, how: Literal["teacher", "channels"] = "teacher") -> None:
        super().__init__()
        self.how = how
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("moments", torch.zeros(2, channels))

    @torch.no_grad()
    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        mean, square = self._moments(features, valid)
        variance = (square - mean.square()).clamp(min=0)
        pooled, energy = variance.mean(), square.mean()
        pooled = torch.where(pooled > CONSTANT * energy, pooled, torch.where(energy > 0, energy, 1.0))
        if self.how == "teacher":
            return features * pooled.rsqrt()
        mean, variance = mean[:, None, None], variance.clamp(min=LEAST**2 * pooled)[:, None, None]
        standard: Tensor = (features - mean) * variance.rsqrt()
        return standard

    def _moments(self, features: Tensor, valid: Tensor | None) -> Tensor:
        """(2, C): means of each channel and of its square; in training mode each call counts as a pass."""
        seen = filled(features, valid)
        means = torch.stack([seen.mean(dim=(0, 2, 3)), seen.square().mean(dim=(0, 2, 3))])  # padding counts as 0
        if valid is not None:
            share = valid.to(means.dtype).mean().expand(1, means.shape[1])
            means = torch.cat([means, share])  # of a process; processes may have more or less padding
        if self.training:
            means = mean_over_processes(means)
        here = means if valid is None else means[:2] / means[2].clamp(min=1 / valid.numel())
        if not self.training:
            return torch.where(self.passes > 0, self.moments.to(here.dtype), here)
        self.passes += 1
        self.moments += (here.to(self.moments.dtype) - self.moments) / self.passes
        moments: Tensor = self.moments.to(here.dtype, copy=True)
        return moments


class Unchanged(nn.Module):
    """The features as they are."""

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        return features


def standardised(channels: int, how: Standard) -> nn.Module:
    """:class:`Standardised`, or :class:`Unchanged` for ``none``."""
    return Unchanged() if how == "none" else Standardised(channels, how=how)
