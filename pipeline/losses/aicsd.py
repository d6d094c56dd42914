"""Inter-class similarity distillation: how the places of two classes differ; its weights change during training."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from pipeline.losses._base import DistillationLoss
from pipeline.losses._numerics import kl_rows, unit
from pipeline.losses._padding import HIDDEN, filled, inside, mean
from pipeline.losses._weights import TermWeight, Weight
from pipeline.models import SegOutput


class InterClassSimilarity(DistillationLoss):
    """Mean squared error between K x K matrices of divergences between class maps, and pixel-wise KD.

    ``P_c`` is the softmax over positions of class channel c, ``ICS[c, c'] = KL(P_c || P_c')``, its rows get unit length
    and ``icsd = mean (ICS_S - ICS_T)^2``. Pixel-wise KD (T = 1, mean over all elements) is part of the method, because
    the weights of the two change: ``alpha * weight * icsd + (1 - alpha) * kd_weight * kd``, where alpha grows from 0 to
    1 during training (Mansourian et al. 2023, arXiv 2308.04243). So use it without ``kd``: ``loss: aicsd``.

    Differences: in the paper alpha also scales cross-entropy, which belongs to the task here and keeps weight 1; alpha
    grows with steps, not epochs. The task applies it: the two terms have the schedules ``warmup: 1.0`` and ``decay:
    1.0``. The official code is broken, so this follows the text: softmax over all positions (not over the height
    alone), log-probabilities as the KL needs them, the whole matrix (KL is not symmetric; the official code mirrors a
    triangle), any K, no second division by N, and the adaptive weights, which the official code has commented out.

    Args:
        weight: factor of the matrix term; 20 (ours, because no number of the broken code is valid here; the term's
            gradient is then half of the cross-entropy's on streets).
        kd_weight: factor of the KD term; 10 in the official code.
        scope: one matrix per ``image``, or one per ``batch`` of a process, the mean of the images' divergences
            (official).
        adaptive: false: no schedules, the factors alpha and 1 - alpha are 1.

    Shapes: logits (N, K, h, w) of both; returns ``{"aicsd": scalar, "aicsd_kd": scalar}``.

    Example:
        >>> import torch
        >>> z = torch.randn(2, 5, 4, 6)
        >>> out = SegOutput(logits=z, embedding=z)
        >>> terms = InterClassSimilarity()(out, out, torch.zeros(2, 8, 12))
        >>> {name: round(float(term), 5) for name, term in terms.items()}
        {'aicsd': 0.0, 'aicsd_kd': 0.0}
    """

    reads = ("logits",)
    imitates_probabilities = True

    def __init__(
        self,
        *,
        weight: Weight = 20.0,
        kd_weight: Weight = 10.0,
        scope: Literal["image", "batch"] = "image",
        adaptive: bool = True,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.kd_weight = kd_weight
        self.scope = scope
        if adaptive:
            self.term_weights = {
                "aicsd": TermWeight(weight, warmup=1.0), "aicsd_kd": TermWeight(kd_weight, decay=1.0)
            }  # fmt: skip

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        valid = inside(student, student.logits)
        icsd = F.mse_loss(self._similarities(student.logits, valid), self._similarities(teacher.logits, valid))
        kd = mean(kl_rows(student.logits, teacher.logits, dim=1), valid) / student.logits.shape[1]
        return {"aicsd": self.weight * icsd, "aicsd_kd": self.kd_weight * kd}

    def _similarities(self, logits: Tensor, valid: Tensor | None) -> Tensor:
        """(N, K, h, w) to unit rows (N or 1, K, K)."""
        log_p = F.log_softmax(filled(logits, valid, HIDDEN).flatten(2), dim=2)  # (N, K, A)
        p = log_p.exp()
        log_p = filled(log_p, None if valid is None else valid.flatten(1))  # p is 0 there
        log_p = log_p - log_p.mean(dim=1, keepdim=True)  # cancels in every KL, and equal maps give an exact zero
        divergence = (p * log_p).sum(dim=2)[:, :, None] - p @ log_p.transpose(1, 2)  # (N, K, K)
        return unit(divergence.mean(dim=0, keepdim=True) if self.scope == "batch" else divergence, dim=2)
