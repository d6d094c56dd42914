"""Masked generative distillation: the student's last stage with holes must generate the teacher's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pipeline.losses._base import DistillationLoss
from pipeline.losses._masked import MaskedGeneration
from pipeline.models import SegOutput


class MaskedGenerative(DistillationLoss):
    """Sum of squared errors between features generated from the student's and the teacher's own, by image.

    The student's last encoder stage goes through a 1x1 adapter to the teacher's width (where widths differ), loses a
    random part of its positions, and two 3x3 convolutions with a ReLU between generate the teacher's last stage from
    what is left: ``weight / N * ||G(M * F_S) - F_T||^2`` (Yang et al. 2022, arXiv 2205.01529, official code). Published
    with channel-wise distillation of the logits: ``loss: [cwd, mgd]``.

    Differences from the official code: the teacher's map is resized bilinearly where sizes differ; the adapter has no
    bias. The value is a sum, so it grows with h, w and C_T.

    Args:
        student_stage_channels, teacher_stage_channels: C of the encoder stages, offered by the run.
        mask_ratio: probability that a position is dropped; 0.75 in the official code for segmentation.
        weight: factor of the term; 2e-5 in the official code.

    Shapes: last stages (N, C_S, h, w) and (N, C_T, h', w'); returns ``{"mgd": scalar}``.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 4, 3, 5)
        >>> out = SegOutput(logits=x, embedding=x, stages=(x,))
        >>> loss = MaskedGenerative(student_stage_channels=(4,), teacher_stage_channels=(4,))
        >>> loss(out, out, torch.zeros(2, 6, 10))["mgd"].shape
        torch.Size([])
    """

    def __init__(
        self,
        *,
        student_stage_channels: tuple[int, ...],
        teacher_stage_channels: tuple[int, ...],
        mask_ratio: float = 0.75,
        weight: float = 2e-5,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.generation = MaskedGeneration(
            student_stage_channels[-1], teacher_stage_channels[-1], mask_ratio=mask_ratio, where="mgd.mask_ratio"
        )

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        generated, wanted = self.generation(student.stages[-1], teacher.stages[-1])
        return {"mgd": self.weight * F.mse_loss(generated, wanted, reduction="sum") / len(generated)}
