"""DIST: the student learns the teacher's relations between classes and between pixels, not its probabilities."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor

from pipeline.losses._base import DistillationLoss
from pipeline.losses._numerics import distance
from pipeline.losses._padding import inside, mean
from pipeline.losses._weights import Weight
from pipeline.models import SegOutput

EPS = 1e-8  # added to the product of the norms, as in the official code
ROUND_OFF = 1e-6  # a vector whose spread is below this fraction of its length counts as constant


class DIST(DistillationLoss):
    """One minus the Pearson correlation of class probabilities, over rows and over columns.

    Y = softmax(Z / T) is an (R, K) matrix with a row for each of the R = N*h*w pixels. The loss is
    ``inter_weight * (1 - mean_r rho(Y_S[r], Y_T[r])) + intra_weight * (1 - mean_k rho(Y_S[:, k], Y_T[:, k]))``
    (Huang et al. 2022, arXiv 2205.10536, official code). A column holds all pixels of the batch, so the value depends
    on the batch size of a process. Published without KD: ``loss: dist``. With two classes a row has two values that
    sum to one, so rho is +1 or -1 and the row term has no gradient.

    Differences from the official code: a constant row or column has correlation 0 and no gradient, while the plain
    formula multiplies its gradient by 1e8; no factor T^2 (T = 1 in the official code).

    Args:
        inter_weight: factor of the row term (between the classes of a pixel); 1 in the official code.
        intra_weight: factor of the column term (between the pixels of a class); 1 in the official code.
        temperature: T; 1 in the official code.
        aux_weight: factor of the same sum on auxiliary logits, where both networks have an auxiliary head
            (``aux_loss: true`` in their models); 0.4 in the official code.

    Shapes: logits (N, K, h, w) of both; returns ``{"dist_inter": scalar, "dist_intra": scalar}`` and, with auxiliary
    logits, ``"dist_aux"``.

    Example:
        >>> z = torch.randn(2, 5, 4, 6)
        >>> out = SegOutput(logits=z, embedding=z)
        >>> terms = DIST()(out, out, torch.zeros(2, 8, 12))
        >>> [name for name, term in terms.items() if float(term.abs()) < 1e-5]
        ['dist_inter', 'dist_intra']
    """

    reads = ("logits", "aux")
    imitates_probabilities = True
    uses_auxiliary = True

    def __init__(
        self,
        *,
        inter_weight: Weight = 1.0,
        intra_weight: Weight = 1.0,
        temperature: Annotated[float, Gt(0)] = 1.0,
        aux_weight: Weight = 0.4,
    ) -> None:
        super().__init__()
        self.inter_weight = inter_weight
        self.intra_weight = intra_weight
        self.temperature = temperature
        self.aux_weight = aux_weight

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        inter, intra = self._relations(student.logits, teacher.logits, inside(student, student.logits))
        terms = {"dist_inter": inter, "dist_intra": intra}
        if student.aux is not None and teacher.aux is not None:
            valid = inside(student, student.aux)
            terms["dist_aux"] = self.aux_weight * torch.stack(self._relations(student.aux, teacher.aux, valid)).sum()
        return terms

    def _relations(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """The weighted row term and column term."""
        y_s, y_t = (F.softmax(z.transpose(0, 1).flatten(1) / self.temperature, dim=0) for z in (student, teacher))
        rows = _pearson(y_s, y_t, dim=0)  # y: (K, R)
        if valid is None:
            inter = 1 - rows.mean()
        else:
            inter = mean(1 - rows.reshape(valid.shape), valid)
            y_s, y_t = (_without(y, valid.flatten()) for y in (y_s, y_t))
        intra = 1 - _pearson(y_s, y_t, dim=1).mean()
        return self.inter_weight * inter, self.intra_weight * intra


def _without(y: Tensor, valid: Tensor) -> Tensor:
    """Columns (K, R) with their mean over valid pixels (R,) in place of the others, which then do not matter."""
    mean_of_valid = y.masked_fill(~valid, 0.0).sum(dim=1, keepdim=True) / valid.sum().clamp(min=1)
    return torch.where(valid, y, mean_of_valid)


def _pearson(a: Tensor, b: Tensor, *, dim: int) -> Tensor:
    """Correlation along a dimension, which is removed; 0 where a vector is constant."""
    mean_a, mean_b = a.mean(dim=dim, keepdim=True), b.mean(dim=dim, keepdim=True)
    spread_a, spread_b = distance(a, mean_a, dim=dim), distance(b, mean_b, dim=dim)
    varies = (spread_a > ROUND_OFF * a.norm(dim=dim)) & (spread_b > ROUND_OFF * b.norm(dim=dim))
    covariance = ((a - mean_a) * (b - mean_b)).sum(dim=dim)
    return torch.where(varies, covariance, 0) / (spread_a * spread_b + EPS)
