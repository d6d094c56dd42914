"""Intra-class feature variation: how far each pixel is from the centre of its class."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.losses._base import DistillationLoss
from pipeline.losses._classes import class_masks, class_means
from pipeline.losses._numerics import unit
from pipeline.losses._padding import inside, mean
from pipeline.losses._weights import Weight
from pipeline.models import SegOutput


class IntraClassFeatureVariation(DistillationLoss):
    """Mean squared error between maps of cosines: each pixel's embedding against the centre of its class.

    The centre is the mean embedding of the pixels of that class in that image, by labels at feature size. With
    ``m[p] = cos(F[p], centre[class of p])`` the loss is ``weight * mean_np (m_S - m_T)^2`` (Wang et al. 2020, arXiv
    2007.09072, official code). An ignored pixel has cosine 0 in both networks (1 in the official code), so it adds
    nothing to the sum but counts in the mean. Gradient flows through the student's centres too, as in the official
    code. The numbers of channels may differ; there is no adapter. The CIRKD code base adds pixel-wise KD:
    ``loss: [kd, ifvd]``.

    Differences from the official code: a zero vector has cosine 0 and no gradient; no holistic (adversarial) term,
    which needs a second optimiser.

    Args:
        num_classes, ignore_index: K and the target id of ignored pixels, offered by the run.
        weight: factor of the term; 20 in the CIRKD code, 200 in the official code (beside WGAN-GP).

    Shapes: embeddings (N, C_S, h, w) and (N, C_T, h, w), target (N, H, W); returns ``{"ifvd": scalar}``.

    Example:
        >>> x = torch.randn(1, 3, 2, 2)
        >>> out = SegOutput(logits=x, embedding=x)
        >>> loss = IntraClassFeatureVariation(num_classes=2, ignore_index=255)
        >>> float(loss(out, out, torch.tensor([[[0, 1], [1, 255]]]))["ifvd"])
        0.0
    """

    reads = ("embedding",)
    uses_labels = True

    def __init__(self, *, num_classes: int, ignore_index: int, weight: Weight = 20.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.weight = weight

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        valid = inside(student, student.embedding)
        masks = class_masks(
            target, student.embedding, num_classes=self.num_classes, ignore_index=self.ignore_index, valid=valid
        )  # (N, K, A)
        gap = _variation(student.embedding, masks) - _variation(teacher.embedding, masks)  # (N, A)
        return {"ifvd": self.weight * mean(gap.square(), None if valid is None else valid.flatten(1))}


def _variation(features: Tensor, masks: Tensor) -> Tensor:
    """(N, A) cosine of every pixel with the centre of its class; 0 for a pixel without a class.

    One matrix product gives the cosines with all K centres and the mask selects one, so no (N, C, A) map of centres is
    needed.
    """
    means, _ = class_means(features, masks)  # (N, K, C)
    cosines = unit(means, dim=2) @ unit(features.flatten(2))  # (N, K, A)
    return torch.where(masks > 0, cosines, 0).sum(dim=1)
