"""The contract of a distillation loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from pipeline.models import SegOutput


class DistillationLoss(nn.Module, ABC):
    """Named terms that pull a student towards its teacher; the task adds cross-entropy.

    A loss is one file with keyword-only, annotated constructor arguments (the schema of ``losses.<name>`` in
    params.yaml). Facts that only the run knows are offered to it by name: ``num_classes``, ``ignore_index``,
    ``student_channels``, ``teacher_channels``, ``student_stage_channels``, ``teacher_stage_channels``. Adapters and
    queues are its parameters and buffers: optimised with the run, never part of the student. It knows no path, data
    set, model, device or rank.
    """

    #: False spares the teacher's forward pass; the loss then gets the student's own detached output in its place.
    uses_teacher: ClassVar[bool] = True

    @abstractmethod
    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        """Scalar terms, already weighted; their sum is the loss.

        Args:
            student, teacher: outputs whose logits and embeddings have equal (h, w); the teacher's carry no gradient.
            target: (N, H, W) int64 train ids.
        """


PLUGIN = DistillationLoss
