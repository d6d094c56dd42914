"""Feature imitation: the student's embedding, through a 1x1 adapter, follows the teacher's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pipeline.losses._adapters import Adapter, convolution
from pipeline.losses._base import DistillationLoss
from pipeline.losses._padding import filled, inside, mean
from pipeline.losses._standard import Standard, standardised
from pipeline.losses._weights import Weight
from pipeline.models import SegOutput


class FitNet(DistillationLoss):
    """Mean squared error between embeddings (Romero et al. 2015, arXiv 1412.6550, as the CIRKD code base applies it).

    The student's embedding passes a 1x1 convolution without bias to the teacher's width; the mean runs over all
    elements. The adapter is trained with the student and is not part of it.

    Differences from that code base:

    - It adds pixel-wise KD of weight 1 in the same run; here each term is a file, and this one is the feature term
      alone: ``loss: [kd, fitnet]``.
    - It compares with the teacher's features as they are (``normalize: none``), so a teacher with ten times the values
      has about six times the gradient. By default they are divided by their deviation first.
    - It has no batch norm before the adapter (``adapter: norm``, ours).

    Args:
        student_channels, teacher_channels: C of the two embeddings, offered by the run.
        weight: factor of the term; 10 in the CIRKD code.
        normalize: of the teacher's embedding, with statistics of all training steps so far: ``teacher`` divides by the
            deviation of all values around the means of their channels; ``channels`` standardises each channel, so that
            all count the same; ``none`` takes it as it is.
        adapter: ``plain``, the convolution alone, or ``norm``, batch norm without scale and offset before it, so that
            the scale of the student's embedding does not matter.

    Shapes: embeddings (N, C_S, h, w) and (N, C_T, h, w); returns ``{"fitnet": scalar}``.

    Example:
        >>> import torch
        >>> loss = FitNet(student_channels=3, teacher_channels=4)
        >>> s = SegOutput(logits=torch.zeros(1, 2, 4, 4), embedding=torch.zeros(1, 3, 4, 4))
        >>> t = SegOutput(logits=torch.zeros(1, 2, 4, 4), embedding=torch.ones(1, 4, 4, 4))
        >>> float(loss(s, t, torch.zeros(1, 8, 8))["fitnet"].detach())
        10.0
    """

    reads = ("embedding",)

    def __init__(
        self,
        *,
        student_channels: int,
        teacher_channels: int,
        weight: Weight = 10.0,
        normalize: Standard = "teacher",
        adapter: Adapter = "plain",
    ) -> None:
        super().__init__()
        self.weight = weight
        self.adapter = convolution(student_channels, teacher_channels, adapter)
        self.standard = standardised(teacher_channels, normalize)

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        valid = inside(student, student.embedding)
        adapted = self.adapter(filled(student.embedding, valid))  # (N, C_T, h, w)
        error = F.mse_loss(adapted, self.standard(teacher.embedding, valid), reduction="none")
        return {"fitnet": self.weight * mean(error, valid)}
