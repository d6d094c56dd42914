"""Masked generative distillation: the student's last stage, partly set to 0, must generate the teacher's."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor

from pipeline.losses._adapters import Adapter
from pipeline.losses._base import DistillationLoss
from pipeline.losses._masked import MaskedGeneration, squared_error
from pipeline.losses._padding import filled, inside
from pipeline.losses._standard import Standard
from pipeline.losses._weights import Weight
from pipeline.models import SegOutput

#: Positions of the last stage for which the weight is published: crops of 512 x 512 at stride 8.
PUBLISHED_POSITIONS = 64 * 64


class MaskedGenerative(DistillationLoss):
    """Sum of squared errors, per image, between features generated from the student's and the teacher's features.

    A 1x1 adapter brings the student's last encoder stage to the teacher's number of channels (where the numbers
    differ), random positions are set to 0, and two 3x3 convolutions with a ReLU between them generate the teacher's
    last stage from the rest: ``4096 * weight / (N * h * w) * ||G(M * F_S) - F_T||^2`` (Yang et al. 2022, arXiv
    2205.01529, official code). Published with channel-wise distillation of the logits: ``loss: [cwd, mgd]``.

    Differences from the official code: it takes the sum over the positions, which is the same for its crops of 512 x
    512 at stride 8 (4096 positions) and grows with h * w; the teacher's map is resized bilinearly where sizes differ;
    the adapter has no bias. The value grows with C_T, and with the square of the teacher's scale unless ``normalize``
    is set.

    Args:
        student_stage_channels, teacher_stage_channels: C of the encoder stages, offered by the run.
        mask_ratio: probability that a position is set to 0; 0.75 in the official code for segmentation.
        weight: factor of the term; 2e-5 in the official code.
        normalize: of the teacher's stage: ``none`` takes it as it is, as the published weight needs; ``teacher``
            divides it by its deviation over all training steps so far; ``channels`` standardises each channel.
        adapter: before the 1x1 convolution: ``plain``, nothing, or ``norm``, batch norm without scale and offset, so
            that the scale of the student's stage does not matter (ours).

    Shapes: last stages (N, C_S, h, w) and (N, C_T, h', w'); returns ``{"mgd": scalar}``.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 4, 3, 5)
        >>> out = SegOutput(logits=x, embedding=x, stages=(x,))
        >>> loss = MaskedGenerative(student_stage_channels=(4,), teacher_stage_channels=(4,))
        >>> loss(out, out, torch.zeros(2, 6, 10))["mgd"].shape
        torch.Size([])
    """

    reads = ("stages",)

    def __init__(
        self,
        *,
        student_stage_channels: tuple[int, ...],
        teacher_stage_channels: tuple[int, ...],
        mask_ratio: Annotated[float, Ge(0), Lt(1)] = 0.75,
        weight: Weight = 2e-5,
        normalize: Standard = "none",
        adapter: Adapter = "plain",
    ) -> None:
        super().__init__()
        self.weight = weight
        channels = student_stage_channels[-1], teacher_stage_channels[-1]
        self.generation = MaskedGeneration(*channels, mask_ratio=mask_ratio, normalize=normalize, adapter=adapter)

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        ours, theirs = student.stages[-1], teacher.stages[-1]
        valid = inside(student, ours)
        generated, original = self.generation(filled(ours, valid), theirs, inside(teacher, theirs))
        return {"mgd": self.weight * squared_error(generated, original, positions=PUBLISHED_POSITIONS, valid=valid)}
