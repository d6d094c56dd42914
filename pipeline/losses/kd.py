"""Pixel-wise knowledge distillation on logits."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn import functional as F

from pipeline.losses._base import DistillationLoss
from pipeline.losses._numerics import kl_rows
from pipeline.losses._padding import filled, inside, mean
from pipeline.losses._weights import Weight
from pipeline.models import SegOutput


class PixelKD(DistillationLoss):
    r"""KL divergence of the student's class distribution from the teacher's, at every pixel of the logits.

    ``T^2 / R * sum_r KL(softmax(z_T[r] / T) || softmax(z_S[r] / T))`` over the R = N*h*w pixels at logits resolution
    (Hinton et al. 2015, arXiv 1503.02531, as the CIRKD code base applies it to segmentation: T = 1, weight 1, mean over
    rows). Ignored pixels count too, as in that code base: the teacher predicts classes there as well. Padding does not
    (it does there): the mean is that of each image's frame.

    Args:
        temperature: T, softens both distributions; 1 in the CIRKD code.
        weight: factor of the term; 1 in the CIRKD code. Code bases with another reduction need another weight.
        boundary: extra weight of pixels on a boundary: with 3.0 each counts four times as much as another pixel of its
            image. A pixel is on a boundary if the teacher predicts another class in its 3x3 neighbourhood.

    Shapes: logits (N, K, h, w) of both; returns ``{"kd": scalar}``.

    Example:
        >>> import torch
        >>> z = torch.randn(2, 5, 4, 6)
        >>> out = SegOutput(logits=z, embedding=z)
        >>> float(PixelKD()(out, out, torch.zeros(2, 8, 12)).get("kd").abs() < 1e-6)
        1.0
    """

    reads = ("logits",)
    imitates_probabilities = True

    def __init__(
        self,
        *,
        temperature: Annotated[float, Gt(0)] = 1.0,
        weight: Weight = 1.0,
        boundary: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight = weight
        self.boundary = boundary

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        divergence = kl_rows(student.logits, teacher.logits, dim=1, temperature=self.temperature)  # (N, h, w)
        frame = inside(student, student.logits)
        if not self.boundary:
            return {"kd": self.weight * self.temperature**2 * mean(divergence, frame)}
        emphasis = 1 + self.boundary * boundaries(teacher.logits, frame)
        if frame is not None:
            emphasis = emphasis.masked_fill(~frame, 0.0)
        sums = (divergence * emphasis).flatten(1).sum(1) / emphasis.flatten(1).sum(1).clamp(min=1)  # (N,)
        return {"kd": self.weight * self.temperature**2 * sums.mean()}


def boundaries(logits: Tensor, frame: Tensor | None = None) -> Tensor:
    """1 where another class is predicted in the 3x3 neighbourhood, else 0: (N, K, h, w) -> (N, h, w).

    Args:
        frame: positions (N, h, w) that are no padding; others are nobody's neighbours.
    """
    classes = logits.argmax(1, keepdim=True).to(logits.dtype)
    lowest = filled(classes, frame, -math.inf)
    highest = filled(classes, frame, math.inf)
    largest = F.max_pool2d(lowest, 3, stride=1, padding=1)  # pads with -inf
    smallest = -F.max_pool2d(-highest, 3, stride=1, padding=1)
    return (largest > smallest).squeeze(1).to(logits.dtype)
