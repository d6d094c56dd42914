"""Channel-wise distillation: at which places of the image each channel is large."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from torch import Tensor

from pipeline.losses._adapters import Adapter, match_channels
from pipeline.losses._base import DistillationLoss
from pipeline.losses._numerics import kl_rows
from pipeline.losses._padding import HIDDEN, filled, inside
from pipeline.losses._standard import Standard, standardised
from pipeline.losses._weights import Weight
from pipeline.models import SegOutput


class ChannelWise(DistillationLoss):
    r"""KL divergence between the two networks' softmaxes over *positions*, channel by channel.

    ``T^2 / (N * C) * sum_nc KL(softmax(x_T[n, c] / T) || softmax(x_S[n, c] / T))``, softmax over the h*w positions, for
    x = logits and, with a ``feature_weight``, x = embedding (Shu et al. 2021, arXiv 2011.13256, as the CIRKD code base
    applies it). That code base adds pixel-wise KD (``loss: [kd, cwd]``), a ``feature_weight`` of 50 and an adversarial
    term.

    Differences from the official code: the divisor is C of the compared tensors, not the student's C before the
    adapter; log_softmax, not the logarithm of a softmax, which underflows; the adapter exists only where the numbers
    of channels differ and has no bias, which a softmax over positions would cancel; no adversarial term, which needs a
    second optimiser.

    Args:
        student_channels, teacher_channels: C of the two embeddings, offered by the run.
        logit_weight: factor of the term on logits; 3 in the paper and in the CIRKD code.
        feature_weight: factor of the term on embeddings; 50 in the CIRKD code; the default of 0 builds no adapter.
        temperature: T of both terms; 4 in the CIRKD code.
        normalize: of the teacher's embedding: ``none`` takes it as it is, as the published temperature needs;
            ``teacher`` divides it by its deviation over all training steps so far; ``channels`` standardises each
            channel.
        adapter: before the 1x1 convolution: ``plain``, nothing, or ``norm``, batch norm without scale and offset, so
            that the scale of the student's embedding does not matter (ours).

    Shapes: logits (N, K, h, w), embeddings (N, C_S or C_T, h, w); returns ``{"cwd_logit": scalar}`` and, with a feature
    weight, ``"cwd_feature"``.

    Example:
        >>> import torch
        >>> z = torch.randn(2, 5, 4, 6)
        >>> out = SegOutput(logits=z, embedding=z)
        >>> loss = ChannelWise(student_channels=5, teacher_channels=5, feature_weight=50.0)
        >>> {name: round(float(term), 5) for name, term in loss(out, out, torch.zeros(2, 8, 12)).items()}
        {'cwd_logit': 0.0, 'cwd_feature': 0.0}
    """

    def __init__(
        self,
        *,
        student_channels: int,
        teacher_channels: int,
        logit_weight: Weight = 3.0,
        feature_weight: Weight = 0.0,
        temperature: Annotated[float, Gt(0)] = 4.0,
        normalize: Standard = "none",
        adapter: Adapter = "plain",
    ) -> None:
        super().__init__()
        self.logit_weight = logit_weight
        self.feature_weight = feature_weight
        self.reads = ("logits", "embedding") if feature_weight > 0 else ("logits",)
        self.temperature = temperature
        self.adapter = match_channels(student_channels, teacher_channels, adapter) if feature_weight > 0 else None
        self.standard = standardised(teacher_channels, normalize if feature_weight > 0 else "none")

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        valid = inside(student, student.logits)
        terms = {"cwd_logit": self.logit_weight * self._divergence(student.logits, teacher.logits, valid)}
        if self.adapter is not None:
            valid = inside(student, student.embedding)
            adapted = self.adapter(filled(student.embedding, valid))  # (N, C_T, h, w)
            theirs = self.standard(teacher.embedding, valid)
            terms["cwd_feature"] = self.feature_weight * self._divergence(adapted, theirs, valid)
        return terms

    def _divergence(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        student, teacher = (filled(x, valid, HIDDEN) for x in (student, teacher))
        rows = kl_rows(student.flatten(2), teacher.flatten(2), dim=2, temperature=self.temperature)  # (N, C)
        return self.temperature**2 * rows.mean()
