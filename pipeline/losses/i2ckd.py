"""Intra- and inter-class knowledge distillation (I2CKD)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.losses._adapters import match_channels
from pipeline.losses._base import DistillationLoss
from pipeline.losses._classes import class_masks, class_means
from pipeline.losses._numerics import distance, unit
from pipeline.models import SegOutput


class I2CKD(DistillationLoss):
    r"""A triplet loss on class prototypes: near the teacher's of the same class, far from those of other classes.

    Re-implementation after the published idea (Karine et al., arXiv 2403.18490: class prototypes of feature maps, a
    triplet loss between teacher and student); details reconstructed. The prototype of a class is the mean feature of
    its pixels, the student's after a 1x1 convolution where the numbers of channels differ. With the Euclidean distance
    d, the prototypes S and T and the number n of classes present, the value is

        ``1 / (n (n - 1)) sum_c sum_{c' != c} max(0, d(S_c, T_c) - d(S_c, T_c') + margin)``

    averaged over layers, and over images where prototypes are per image. With one class the value is d(S_c, T_c),
    because there is no negative. Reconstructed: distance, margin, weight, layers, adapter, normalisation, scope.

    Prototypes per batch are of the batch of one process. Used with pixel-wise KD: ``loss: [kd, i2ckd]``.

    Args:
        num_classes, ignore_index, student_channels, teacher_channels: offered by the run.
        student_stage_channels, teacher_stage_channels: offered by the run.
        weight: factor of the term; 1 (ours).
        margin: 0.5 (ours); distances between normalised prototypes are in 0..2.
        normalize: scale prototypes to unit length. Without it the margin has the scale of the features.
        layers: one or more of ``embedding`` and ``stage1`` (shallow), ``stage2``, ...; each has its own adapter. Null:
            the embedding.
        prototypes: one per class of the ``batch``, or per class of each ``image``.
        negatives: ``teacher`` (T_c'), ``student`` (S_c') or ``both``.
        mining: ``all`` negatives, or only the nearest one (``hard``).
        min_pixels: a class with fewer pixels has no prototype; 1.

    Shapes: features (N, C_S, h, w) and (N, C_T, h', w') of each layer, sizes may differ; target (N, H, W).

    Example:
        >>> loss = I2CKD(num_classes=2, ignore_index=255, student_channels=3, teacher_channels=3)
        >>> f = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
        >>> out = SegOutput(logits=f, embedding=f)
        >>> loss(out, out, torch.tensor([[[0, 1], [1, 0]]]))["i2ckd"]  # both classes at one point: the margin
        tensor(0.5000)
    """

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int,
        student_channels: int,
        teacher_channels: int,
        student_stage_channels: tuple[int, ...] = (),
        teacher_stage_channels: tuple[int, ...] = (),
        weight: Annotated[float, Ge(0)] = 1.0,
        margin: Annotated[float, Ge(0)] = 0.5,
        normalize: bool = True,
        layers: list[str] | None = None,
        prototypes: Literal["batch", "image"] = "batch",
        negatives: Literal["teacher", "student", "both"] = "teacher",
        mining: Literal["all", "hard"] = "all",
        min_pixels: Annotated[int, Ge(1)] = 1,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.weight = weight
        self.margin = margin
        self.normalize = normalize
        self.prototypes = prototypes
        self.negatives = negatives
        self.mining = mining
        self.min_pixels = min_pixels
        widths = {"embedding": (student_channels, teacher_channels)}
        for number, pair in enumerate(zip(student_stage_channels, teacher_stage_channels, strict=False), start=1):
            widths[f"stage{number}"] = pair
        chosen = ["embedding"] if layers is None else layers
        unknown = [layer for layer in chosen if layer not in widths]
        if unknown or not chosen:
            raise UserError(f"losses.i2ckd.layers: got {chosen}; allowed: one or more of {', '.join(widths)}")
        self.adapters = nn.ModuleDict({layer: match_channels(*widths[layer]) for layer in chosen})

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        values = []
        for layer, adapter in self.adapters.items():
            s, counts = self.prototypes_of(adapter(features(student, layer)), target)
            t, counts_t = self.prototypes_of(features(teacher, layer), target)
            present = torch.minimum(counts, counts_t) >= self.min_pixels  # a small class may miss a coarser grid
            values.append(self.triplets(s, t, present))
        return {"i2ckd": self.weight * torch.stack(values).mean()}

    def prototypes_of(self, layer: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(N or 1, K, C) prototypes and (N or 1, K) pixel counts of a feature map."""
        masks = class_masks(target, layer, num_classes=self.num_classes, ignore_index=self.ignore_index)
        means, counts = class_means(layer, masks, over=self.prototypes)
        return (unit(means, dim=-1) if self.normalize else means), counts

    def triplets(self, s: Tensor, t: Tensor, present: Tensor) -> Tensor:
        """Mean over the sets of prototypes (n, K, C) that hold a class; ``present`` (n, K)."""
        positive = distance(s, t)  # (n, K)
        others = {"teacher": [t], "student": [s], "both": [t, s]}[self.negatives]
        negative = torch.stack([distance(s[:, :, None], other[:, None]) for other in others])  # (m, n, K, K)
        eye = torch.eye(self.num_classes, dtype=torch.bool, device=s.device)
        pairs = (present[:, :, None] & present[:, None] & ~eye).expand_as(negative)
        if self.mining == "hard":  # the nearest negative of each anchor, over all kinds
            nearest = negative.masked_fill(~pairs, torch.inf).movedim(0, -1).flatten(2).argmin(dim=-1, keepdim=True)
            kept = torch.zeros_like(negative.movedim(0, -1).flatten(2), dtype=torch.bool).scatter(-1, nearest, True)
            pairs = pairs & kept.reshape(*s.shape[:2], self.num_classes, len(others)).movedim(-1, 0)
        hinge = (positive[..., None] - negative + self.margin).clamp(min=0)
        count = pairs.sum(dim=(0, 2, 3))  # (n,)
        value = torch.where(pairs, hinge, 0).sum(dim=(0, 2, 3)) / count.clamp(min=1)
        alone = torch.where(present, positive, 0).sum(dim=-1)  # of the one class
        value = torch.where(count > 0, value, alone)
        return value.sum() / present.any(dim=-1).sum().clamp(min=1)


def features(output: SegOutput, layer: str) -> Tensor:
    """``embedding``, or the encoder stage with that number."""
    return output.embedding if layer == "embedding" else output.stages[int(layer.removeprefix("stage")) - 1]
