"""DIST: the student keeps the teacher's relations between classes and between pixels, not its probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.losses._base import DistillationLoss
from pipeline.losses._numerics import distance
from pipeline.losses._options import positive
from pipeline.models import SegOutput

EPS = 1e-8  # added to the product of the norms, as in the official code
ROUND_OFF = 1e-6  # a vector whose spread is below this part of its length is constant


class DIST(DistillationLoss):
    """One minus the Pearson correlation of class probabilities, over rows and over columns.

    Y = softmax(Z / T) is an (R, K) matrix with a row for each of the R = N*h*w pixels. The loss is
    ``inter_weight * (1 - mean_r rho(Y_S[r], Y_T[r])) + intra_weight * (1 - mean_k rho(Y_S[:, k], Y_T[:, k]))``
    (Huang et al. 2022, arXiv 2205.10536, official code). Columns run over all pixels of the batch, so the value depends
    on the batch size of a process. Published without KD: ``loss: dist``. With two classes a row has two entries that
    sum to one and rho is +1 or -1: the row term then teaches nothing.

    Differences from the official code: a row or column without spread has correlation 0 and gives no gradient, where
    the plain formula multiplies it by 1e8; no factor T^2 (T = 1 there).

    Args:
        inter_weight: factor of the row term (between the classes of a pixel); 1 in the official code.
        intra_weight: factor of the column term (between the pixels of a class); 1 in the official code.
        temperature: T; 1 in the official code.
        aux_weight: factor of the same sum on auxiliary logits, where both networks give them in equal size; 0.4 in the
            official code.

    Shapes: logits (N, K, h, w) of both; returns ``{"dist": scalar}`` and, with auxiliary logits, ``"dist_aux"``.

    Example:
        >>> z = torch.randn(2, 5, 4, 6)
        >>> out = SegOutput(logits=z, embedding=z)
        >>> float(DIST()(out, out, torch.zeros(2, 8, 12))["dist"].abs() < 1e-5)
        1.0
    """

    def __init__(
        self,
        *,
        inter_weight: float = 1.0,
        intra_weight: float = 1.0,
        temperature: float = 1.0,
        aux_weight: float = 0.4,
    ) -> None:
        super().__init__()
        self.inter_weight = inter_weight
        self.intra_weight = intra_weight
        self.temperature = positive("dist.temperature", temperature)
        self.aux_weight = aux_weight

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        terms = {"dist": self._relations(student.logits, teacher.logits)}
        if student.aux is not None and teacher.aux is not None and student.aux.shape == teacher.aux.shape:
            terms["dist_aux"] = self.aux_weight * self._relations(student.aux, teacher.aux)
        return terms

    def _relations(self, student: Tensor, teacher: Tensor) -> Tensor:
        y_s, y_t = (F.softmax(z.transpose(0, 1).flatten(1) / self.temperature, dim=0) for z in (student, teacher))
        inter, intra = (1 - _pearson(y_s, y_t, dim=dim).mean() for dim in (0, 1))  # y: (K, R)
        return self.inter_weight * inter + self.intra_weight * intra


def _pearson(a: Tensor, b: Tensor, *, dim: int) -> Tensor:
    """Correlation along a dimension, which disappears; 0 where a vector is constant."""
    mean_a, mean_b = a.mean(dim=dim, keepdim=True), b.mean(dim=dim, keepdim=True)
    spread_a, spread_b = distance(a, mean_a, dim=dim), distance(b, mean_b, dim=dim)
    varies = (spread_a > ROUND_OFF * a.norm(dim=dim)) & (spread_b > ROUND_OFF * b.norm(dim=dim))
    covariance = ((a - mean_a) * (b - mean_b)).sum(dim=dim)
    return torch.where(varies, covariance, 0) / (spread_a * spread_b + EPS)
