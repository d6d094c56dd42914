"""No distillation: the student alone, with which every other loss is compared."""

from __future__ import annotations

from torch import Tensor

from pipeline.losses._base import DistillationLoss
from pipeline.models import SegOutput


class NoDistillation(DistillationLoss):
    """No terms: the student learns from labels only, and the teacher does not run."""

    uses_teacher = False

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        return {}
