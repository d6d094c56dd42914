"""Feature imitation: the student's embedding, through a 1x1 adapter, follows the teacher's."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from pipeline.losses._base import DistillationLoss
from pipeline.losses._padding import inside, mean
from pipeline.models import SegOutput


class FitNet(DistillationLoss):
    """Mean squared error between embeddings (Romero et al. 2015, arXiv 1412.6550, as the CIRKD code base applies it).

    The student's embedding passes a 1x1 convolution without bias to the teacher's width; the mean runs over all
    elements. The adapter is trained with the student and is not part of it. Difference from that code base: it adds
    pixel-wise KD of weight 1 in the same run; here each term is a file, and this one is the feature term alone.

    Args:
        student_channels, teacher_channels: C of the two embeddings, offered by the run.
        weight: factor of the term; 10 in the CIRKD code.

    Shapes: embeddings (N, C_S, h, w) and (N, C_T, h, w); returns ``{"fitnet": scalar}``.

    Example:
        >>> import torch
        >>> loss = FitNet(student_channels=3, teacher_channels=4)
        >>> s = SegOutput(logits=torch.zeros(1, 2, 4, 4), embedding=torch.zeros(1, 3, 4, 4))
        >>> t = SegOutput(logits=torch.zeros(1, 2, 4, 4), embedding=torch.ones(1, 4, 4, 4))
        >>> float(loss(s, t, torch.zeros(1, 8, 8))["fitnet"])
        10.0
    """

    def __init__(self, *, student_channels: int, teacher_channels: int, weight: Annotated[float, Ge(0)] = 10.0) -> None:
        super().__init__()
        self.weight = weight
        self.adapter = nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        adapted = self.adapter(student.embedding)  # (N, C_T, h, w)
        error = F.mse_loss(adapted, teacher.embedding, reduction="none")
        return {"fitnet": self.weight * mean(error, inside(student, error))}
