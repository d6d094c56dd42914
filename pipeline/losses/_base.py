"""The contract of a distillation loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.losses._numerics import at_least_float32
from pipeline.losses._weights import TermWeight
from pipeline.models import SegOutput


class DistillationLoss(nn.Module, ABC):
    """Named terms that measure how a student differs from its teacher; the task adds cross-entropy.

    A loss is one file with keyword-only constructor arguments, annotated with types and ranges (the schema of
    ``losses.<name>`` in params.yaml). Facts that only the run knows are offered to it by name: ``num_classes``,
    ``ignore_index``, ``student_channels``, ``teacher_channels``, ``student_stage_channels``,
    ``teacher_stage_channels``, ``student_output_stride``, ``teacher_output_stride``, ``steps``, ``seed``. Adapters and
    queues are its parameters and buffers: trained with the student, never part of it. A loss knows no path, data set,
    model, device or rank.

    Where a frame is smaller than its crop, the outputs have the field ``valid``, and padding takes no part in a term:
    :mod:`pipeline.losses._padding` has a mean and masks for that. Pixels of the frame that have no label take part in
    every term that needs none.

    A loss takes outputs of any precision and computes in float32 (float64 stays float64): norms, softmaxes over
    positions and distances are not accurate in half precision, so autocast is off inside. Encoder stages are converted
    when a loss reads them, once for all parts of a composition.
    """

    #: False: the teacher does not run, and the loss gets the student's own detached output instead.
    uses_teacher: ClassVar[bool] = True
    #: True: the student learns the teacher's probabilities of the classes, so both should weigh classes the same way.
    imitates_probabilities: ClassVar[bool] = False
    #: True: a term reads ``target``; of frames without labels this loss then gets the teacher's confident pixels.
    uses_labels: ClassVar[bool] = False
    #: True: it compares auxiliary logits, so the teacher's auxiliary head runs too, if it has one.
    uses_auxiliary: ClassVar[bool] = False
    #: Fields of the teacher's :class:`SegOutput` that the terms read. With logits and embedding only, a crop may
    #: get its part of the teacher's output on the whole frame (``distill.teaching.cached``).
    reads: Sequence[str] = ("logits", "embedding", "stages", "aux")
    #: Weights of the terms by name, where :func:`pipeline.losses.build` built the loss. The task multiplies terms whose
    #: weight changes during training; a loss may set schedules of its own.
    term_weights: Mapping[str, TermWeight] = MappingProxyType({})

    @property
    def until(self) -> float:
        """Part of the training after which no term counts; 1: never."""
        return max((weight.until for weight in self.term_weights.values() if weight.base), default=1.0)

    def __call__(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        with torch.autocast(student.logits.device.type, enabled=False):
            terms: dict[str, Tensor] = super().__call__(
                student.map(at_least_float32), teacher.detach().map(at_least_float32), target
            )
        return terms

    @abstractmethod
    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        """Scalar terms, already weighted; their sum is the loss.

        The option ``weight`` multiplies the term with the name of the loss, ``<x>_weight`` the term ``<loss>_<x>``.

        Args:
            student, teacher: outputs with equal (h, w) of logits, of embeddings and, where both have them, of
                auxiliary logits; the teacher's have no gradient.
            target: (N, H, W) int64 train ids; padding and pixels without a label have the ignored id. A frame without
                labels has the teacher's confident predictions, if the loss says ``uses_labels``.
        """


PLUGIN = DistillationLoss
