"""Attention transfer: the student has large features at the places where the teacher has them."""

from __future__ import annotations

from torch import Tensor

from pipeline.losses._base import DistillationLoss
from pipeline.losses._numerics import unit
from pipeline.losses._padding import filled, inside
from pipeline.losses._weights import Weight
from pipeline.models import SegOutput

#: Positions of the embedding for which the weight is published: crops of 512 x 1024 at stride 8.
PUBLISHED_POSITIONS = 64 * 128


class AttentionTransfer(DistillationLoss):
    """Squared distance between the attention maps of the two embeddings.

    The attention map of an image is the mean over channels of the squared embedding, flattened and divided by its
    L2 norm: ``a = v / ||v||, v[p] = 1/C * sum_c F[c, p]^2``. The loss is ``weight / 8192 * mean_n ||a_S - a_T||^2``
    (Zagoruyko and Komodakis 2017, arXiv 1612.03928, as the CIRKD code base applies it to the embedding alone). That
    code base adds pixel-wise KD: ``loss: [kd, at]``. The numbers of channels may differ; there is no adapter.

    Differences from that code:

    - It takes the mean over the h*w positions, not the sum over 8192. Both are the same for its crops of Cityscapes
      (512 x 1024 at stride 8, 64 x 128 positions); for another crop or stride a mean of maps of unit length has the
      strength 8192 / (h*w). A weight of ``1e4 * 8192 / (h*w)`` gives that mean.
    - A map of zeros stays zero and has no gradient.

    Args:
        weight: factor of the term; 1e4 in the CIRKD code, because the values of a map of unit length are small.

    Shapes: embeddings (N, C_S, h, w) and (N, C_T, h, w); returns ``{"at": scalar}``.

    Example:
        >>> import torch
        >>> s, t = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 7.0]]]])
        >>> pair = (SegOutput(logits=s, embedding=s), SegOutput(logits=t, embedding=t))
        >>> float(AttentionTransfer(weight=8192.0)(*pair, torch.zeros(1, 2, 4))["at"])
        2.0
    """

    reads = ("embedding",)

    def __init__(self, *, weight: Weight = 1e4) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        gap = _attention(student) - _attention(teacher)  # (N, h*w)
        return {"at": self.weight / PUBLISHED_POSITIONS * gap.square().sum(dim=1).mean()}


def _attention(output: SegOutput) -> Tensor:
    """Unit rows (N, h*w) of an embedding (N, C, h, w); 0 at padding."""
    features = filled(output.embedding, inside(output, output.embedding))
    return unit(features.square().mean(dim=1).flatten(1))
