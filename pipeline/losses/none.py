"""No distillation: the student alone, the row that every other loss must beat."""

from __future__ import annotations

from torch import Tensor

from pipeline.losses._base import DistillationLoss
from pipeline.models import SegOutput


class NoDistillation(DistillationLoss):
    """No terms: the student learns from labels only, and the teacher is not run."""

    uses_teacher = False

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        return {}
