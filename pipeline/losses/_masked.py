"""Masked generation: from the student's feature map with gaps, generate the teacher's complete one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.losses._adapters import Adapter, match_channels
from pipeline.losses._padding import mean
from pipeline.losses._standard import Standard, standardised


class MaskedGeneration(nn.Module):
    """Adapter to the teacher's number of channels, random gaps, 3x3 convolution - ReLU - 3x3 convolution.

    Args:
        student, teacher: C of the two feature maps.
        mask_ratio: probability that a position is set to 0 in all channels, in [0, 1).
        normalize: of the teacher's map, see :mod:`pipeline.losses._standard`.
        adapter: see :mod:`pipeline.losses._adapters`.

    Shapes: student (N, C_S, h, w), teacher (N, C_T, h', w'); returns the generated map and the teacher's map, resized
    bilinearly where sizes differ, both (N, C_T, h, w). ``valid`` (N, h', w'): what is no padding in the teacher's map,
    for its statistics; None: all.
    """

    def __init__(self, student: int, teacher: int, *, mask_ratio: float, normalize: Standard, adapter: Adapter) -> None:
        super().__init__()
        self.mask_ratio = mask_ratio
        self.standard = standardised(teacher, normalize)
        self.adapter = match_channels(student, teacher, adapter)
        self.generator = nn.Sequential(
            nn.Conv2d(teacher, teacher, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, kernel_size=3, padding=1),
        )

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        images, _, height, width = student.shape
        teacher = self.standard(teacher, valid)
        kept = torch.rand(images, 1, height, width, device=student.device) >= self.mask_ratio
        generated = self.generator(torch.where(kept, self.adapter(student), 0))
        if teacher.shape[-2:] != student.shape[-2:]:
            teacher = F.interpolate(teacher, size=(height, width), mode="bilinear", align_corners=False)
        return generated, teacher


def squared_error(generated: Tensor, original: Tensor, *, positions: int, valid: Tensor | None = None) -> Tensor:
    """Sum of squared errors per image, for a grid of so many positions: that for which a weight is published.

    Published losses take the sum over the positions at hand, so a smaller crop or a coarser stride weakens them.

    Shapes: (N, C, h, w) both, valid (N, h, w) without padding; returns a scalar.
    """
    error = F.mse_loss(generated, original, reduction="none")
    return mean(error, valid) * generated.shape[1] * positions
