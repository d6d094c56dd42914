"""Pair-wise structured distillation: which regions of an image are similar."""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from pipeline.losses._base import DistillationLoss
from pipeline.losses._numerics import unit
from pipeline.losses._padding import HIDDEN, filled, inside
from pipeline.losses._similarity import gram_distance
from pipeline.losses._weights import Weight
from pipeline.models import SegOutput


class PairWise(DistillationLoss):
    """Mean squared error between the two networks' cosine maps over the regions of an image.

    The embedding is max-pooled to n regions and its vectors get unit length; ``S = F^T F`` holds the cosines of all
    pairs, and the loss is ``weight / (N * n^2) * sum ||S_S - S_T||_F^2`` (Liu et al. 2019, arXiv 1903.04197). Two
    objectives have this name: the CIRKD code base pools 2 x 2 pixels to a region (``kernel``), the official code pools
    the image to 2 x 2 regions (``grid``). The CIRKD code base adds pixel-wise KD: ``loss: [kd, skd]``. The numbers of
    channels may differ; there is no adapter, and no (n, n) map in memory.

    Differences from the official code: gradient flows through the norms (the official code detaches them); a zero
    vector has cosine 0 and no gradient; ``grid`` gives exactly that many regions for odd sizes too; no holistic
    (adversarial) term, which needs a second optimiser. The paper says average pooling; both code bases take the
    maximum.

    Args:
        weight: factor of the term; 10 in the CIRKD code, 0.5 in the official script for ``grid``.
        mode: ``kernel`` or ``grid``.
        kernel: height and width of a region in pixels of the embedding, for ``kernel``; 2 in the CIRKD code.
        grid: regions along height and along width, for ``grid``; 2 in the official code.

    Shapes: embeddings (N, C_S, h, w) and (N, C_T, h, w); returns ``{"skd": scalar}``.

    Example:
        >>> import torch
        >>> s, t = torch.eye(2).reshape(1, 2, 1, 2), torch.ones(1, 3, 1, 2)  # two pixels: orthogonal, alike
        >>> pair = (SegOutput(logits=s, embedding=s), SegOutput(logits=t, embedding=t))
        >>> round(float(PairWise(weight=1.0, kernel=1)(*pair, torch.zeros(1, 2, 4))["skd"]), 5)
        0.5
    """

    reads = ("embedding",)

    def __init__(
        self,
        *,
        weight: Weight = 10.0,
        mode: Literal["kernel", "grid"] = "kernel",
        kernel: Annotated[int, Ge(1)] = 2,
        grid: Annotated[int, Ge(1)] = 2,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.mode = mode
        self.kernel = kernel
        self.grid = grid

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        valid = inside(student, student.embedding)
        seen = None if valid is None else self._pooled(valid[:, None].float())[:, 0] > 0  # regions with a valid pixel
        regions = (unit(filled(self._pooled(filled(x.embedding, valid, HIDDEN)), seen)) for x in (student, teacher))
        columns = (x.flatten(2) for x in regions)  # (N, C, n)
        return {"skd": self.weight * gram_distance(*columns, valid=None if seen is None else seen.flatten(1))}

    def _pooled(self, features: Tensor) -> Tensor:
        """(N, C, h, w) to the maxima of n regions."""
        pooled: Tensor
        if self.mode == "grid":
            pooled = F.adaptive_max_pool2d(features, self.grid)
        else:
            pooled = F.max_pool2d(features, self.kernel, ceil_mode=True)
        return pooled
