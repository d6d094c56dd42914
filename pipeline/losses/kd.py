"""Pixel-wise knowledge distillation on logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import UserError
from pipeline.losses._base import DistillationLoss
from pipeline.models import SegOutput


class PixelKD(DistillationLoss):
    r"""KL divergence of the student's class distribution from the teacher's, at every pixel of the logits.

    ``T^2 / R * sum_r KL(softmax(z_T[r] / T) || softmax(z_S[r] / T))`` over the R = N*h*w pixels at logits resolution
    (Hinton et al. 2015, arXiv 1503.02531, as the CIRKD code base applies it to segmentation: T = 1, weight 1, mean over
    rows). Ignored pixels take part, as there: the teacher has an opinion on them. Computed in float32 under autocast.

    Args:
        temperature: T, softens both distributions; 1 in the CIRKD code.
        weight: factor of the term; 1 in the CIRKD code (not portable to code bases with other reductions).

    Shapes: logits (N, K, h, w) of both; returns ``{"kd": scalar}``.

    Example:
        >>> z = torch.randn(2, 5, 4, 6)
        >>> out = SegOutput(logits=z, embedding=z)
        >>> float(PixelKD()(out, out, torch.zeros(2, 8, 12)).get("kd").abs() < 1e-6)
        1.0
    """

    def __init__(self, *, temperature: float = 1.0, weight: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"losses.kd.temperature: got {temperature}; it must be positive")
        self.temperature = temperature
        self.weight = weight

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        with torch.autocast(student.logits.device.type, enabled=False):
            log_s = F.log_softmax(_at_least_float32(student.logits) / self.temperature, dim=1)
            log_t = F.log_softmax(_at_least_float32(teacher.logits) / self.temperature, dim=1)
            rows = log_s.numel() // log_s.shape[1]
            divergence = F.kl_div(log_s, log_t, reduction="sum", log_target=True) / rows
        return {"kd": self.weight * self.temperature**2 * divergence}


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
