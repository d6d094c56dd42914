"""Pixel-wise feature similarity and knowledge-gap weighted imitation (PFS)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from pipeline.losses._base import DistillationLoss
from pipeline.losses._classes import resize_labels
from pipeline.losses._numerics import kl_rows, unit
from pipeline.losses._padding import inside, whole
from pipeline.losses._similarity import LEAST_TEMPERATURE, gram_distance, relation_kl
from pipeline.losses._stride import PUBLISHED, pooled, pooling
from pipeline.losses._weights import Weight
from pipeline.models import SegOutput


class PFS(DistillationLoss):
    r"""Similarities between the pixels of an image, and predictions where the student is worse than the teacher.

    Re-implementation after the published idea (Shan 2019, arXiv 1910.14226); details reconstructed, because neither
    code nor formulas were available:

    - ``pfs_similarity`` (reconstructed): cosines of all pixels of an image, rows as softmax over ``temperature``; KL of
      the student's rows from the teacher's, mean over rows. ``metric: l2`` is the mean squared difference of the
      cosines. The first is the i = j part of CIRKD's mini-batch term, the second is SKD without its pooling.
    - ``pfs_imitation`` (reconstructed): pixel-wise KL on logits, ``sum_i w_i KL_i * T^2 / sum_i w_i`` over labelled
      pixels, where the detached weight w_i is the knowledge gap of pixel i, zero where the student is no worse than the
      teacher.

    The sum of weights runs over the batch of one process. Use it without ``kd``: ``loss: pfs``.

    Args:
        ignore_index, student_output_stride: offered by the run.
        similarity_weight, imitation_weight: factors of the two terms; 1 each (ours).
        temperature: of the rows; 0.1, as in CIRKD (ours). With 1, the raw cosines, rows are nearly uniform, and the
            term's gradient is 2 % of the cross-entropy's on streets.
        pool: average pooling before pixels are compared, as kernel and stride; 1 is none. Null: max(1, 8 // stride) of
            the student's embedding: all pixels at stride 8, as published, and as many at finer strides (ours).
        metric: ``kl``, or ``l2``, which uses no temperature.
        gap: ``conf`` max(0, p_T - p_S) of the labelled class; ``ce`` max(0, CE_S - CE_T); ``kl`` KL(p_T || p_S)
            over its maximum; ``l1`` half the L1 distance, which needs no label.
        normalizer: ``gap`` divides by the sum of weights; ``pixels`` by the number of labelled pixels, so that the
            term fades as the student catches up.
        imitation_temperature: T of the imitation's softmaxes; 1.

    Shapes: embeddings (N, C_S, h, w), (N, C_T, h, w), logits (N, K, h, w), target (N, H, W).

    Example:
        >>> z = torch.randn(2, 3, 4, 4)
        >>> out = SegOutput(logits=z, embedding=z)
        >>> terms = PFS(ignore_index=255)(out, out, torch.zeros(2, 8, 8, dtype=torch.int64))
        >>> [name for name, term in terms.items() if float(term) < 1e-6]
        ['pfs_similarity', 'pfs_imitation']
    """

    reads = ("logits", "embedding")
    imitates_probabilities = True
    uses_labels = True

    def __init__(
        self,
        *,
        ignore_index: int,
        student_output_stride: int = PUBLISHED,
        similarity_weight: Weight = 1.0,
        imitation_weight: Weight = 1.0,
        temperature: Annotated[float, Ge(LEAST_TEMPERATURE)] = 0.1,
        pool: Annotated[int, Ge(1)] | None = None,
        metric: Literal["kl", "l2"] = "kl",
        gap: Literal["conf", "ce", "kl", "l1"] = "conf",
        normalizer: Literal["gap", "pixels"] = "gap",
        imitation_temperature: Annotated[float, Gt(0)] = 1.0,
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.similarity_weight = similarity_weight
        self.imitation_weight = imitation_weight
        self.temperature = temperature
        self.pool = pooling(student_output_stride, pool, loss="pfs")
        self.metric = metric
        self.gap = gap
        self.normalizer = normalizer
        self.imitation_temperature = imitation_temperature

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        terms = {}
        if self.similarity_weight:
            terms["pfs_similarity"] = self.similarity_weight * self.similarity(student, teacher)
        if self.imitation_weight:
            labels, valid = resize_labels(target, student.logits.shape[-2:]), inside(student, student.logits)
            labels = labels if valid is None else labels.masked_fill(~valid, self.ignore_index)
            terms["pfs_imitation"] = self.imitation_weight * self.imitation(student.logits, teacher.logits, labels)
        return terms

    def similarity(self, student: SegOutput, teacher: SegOutput) -> Tensor:
        valid = whole(inside(student, student.embedding), self.pool, ceil_mode=True)
        valid = None if valid is None else valid.flatten(1)
        columns = (unit(pooled(x.embedding, self.pool)).flatten(2) for x in (student, teacher))
        if self.metric == "l2":
            return gram_distance(*columns, valid=valid)
        return relation_kl(*columns, temperature=self.temperature, valid=valid)

    def imitation(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        temperature = self.imitation_temperature
        divergence = kl_rows(student, teacher, dim=1, temperature=temperature)  # (N, h, w)
        labelled = labels != self.ignore_index
        with torch.no_grad():
            weight = self.knowledge_gap(student, teacher, labels) * labelled
            share = weight.sum() if self.normalizer == "gap" else labelled.sum().to(weight.dtype)
            weight = weight / share.clamp(min=torch.finfo(weight.dtype).tiny)
        return temperature**2 * (weight * divergence).sum()

    def knowledge_gap(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """(N, h, w), 0 or more; pixels without a label have any value."""
        if self.gap == "l1":
            return 0.5 * (teacher.softmax(1) - student.softmax(1)).abs().sum(1)
        if self.gap == "kl":
            gap = kl_rows(student, teacher, dim=1).clamp(min=0)
            return gap / gap.where(labels != self.ignore_index, 0).amax().clamp(min=1e-12)
        classes = labels.where(labels != self.ignore_index, 0)[:, None]
        log_s, log_t = (F.log_softmax(logits, dim=1).gather(1, classes)[:, 0] for logits in (student, teacher))
        return (log_t - log_s if self.gap == "ce" else log_t.exp() - log_s.exp()).clamp(min=0)
