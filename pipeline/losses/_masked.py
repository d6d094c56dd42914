"""Masked generation: the student's feature map with holes must become the teacher's whole one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.losses._adapters import match_channels


class MaskedGeneration(nn.Module):
    """Adapter to the teacher's width, random holes, 3x3 convolution - ReLU - 3x3 convolution.

    Args:
        student, teacher: C of the two feature maps.
        mask_ratio: probability that a position is dropped, in all channels at once.
        where: key of the ratio in params.yaml, below ``losses``.

    Shapes: student (N, C_S, h, w), teacher (N, C_T, h', w'); returns what was generated and the teacher's map, resized
    bilinearly where sizes differ, both (N, C_T, h, w).

    Raises:
        UserError: the ratio is not in 0..1, 1 excluded.
    """

    def __init__(self, student: int, teacher: int, *, mask_ratio: float, where: str) -> None:
        super().__init__()
        if not 0 <= mask_ratio < 1:
            raise UserError(f"losses.{where}: got {mask_ratio}; allowed: from 0 to below 1")
        self.mask_ratio = mask_ratio
        self.adapter = match_channels(student, teacher)
        self.generator = nn.Sequential(
            nn.Conv2d(teacher, teacher, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, kernel_size=3, padding=1),
        )

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        images, _, height, width = student.shape
        kept = torch.rand(images, 1, height, width, device=student.device) >= self.mask_ratio
        generated = self.generator(torch.where(kept, self.adapter(student), 0))
        if teacher.shape[-2:] != student.shape[-2:]:
            teacher = F.interpolate(teacher, size=(height, width), mode="bilinear", align_corners=False)
        return generated, teacher
