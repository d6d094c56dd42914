"""Intra- and inter-class knowledge distillation (I2CKD)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.losses._adapters import match_channels
from pipeline.losses._base import DistillationLoss
from pipeline.losses._classes import class_masks, class_means, present_pairs, share_of_pixels
from pipeline.losses._numerics import distance, unit
from pipeline.losses._padding import inside
from pipeline.losses._weights import Weight
from pipeline.models import SegOutput


class I2CKD(DistillationLoss):
    r"""A triplet loss on class prototypes: near the teacher's of the same class, far from those of other classes.

    Re-implementation after the published idea (Karine et al., arXiv 2403.18490: class prototypes of feature maps, a
    triplet loss between teacher and student); details reconstructed. The prototype of a class is the mean feature of
    its pixels, the student's after a 1x1 convolution where the numbers of channels differ. With the Euclidean distance
    d, the prototypes S and T and the number n of classes present, the value is

        ``1 / (n (n - 1)) sum_c sum_{c' != c} max(0, d(S_c, T_c) - d(S_c, T_c') + margin)``

    averaged over layers, and over images where prototypes are per image. With one class the value is d(S_c, T_c),
    because there is no negative. A triplet counts by the pixels of its classes: the mean has the weights ``w_c w_c'``
    with ``w_c = min(1, pixels / min_pixels)`` (ours). Reconstructed: distance, margin, weight, layers, adapter,
    normalisation, scope.

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
        min_pixels: a class with this many pixels in the feature map or more counts fully. With fewer it counts in
            proportion to them, because the mean of a few pixels is mostly noise. 1: every class counts the same.

    Shapes: features (N, C_S, h, w) and (N, C_T, h', w') of each layer, sizes may differ; target (N, H, W).

    Example:
        >>> loss = I2CKD(num_classes=2, ignore_index=255, student_channels=3, teacher_channels=3)
        >>> f = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
        >>> out = SegOutput(logits=f, embedding=f)
        >>> loss(out, out, torch.tensor([[[0, 1], [1, 0]]]))["i2ckd"]  # both classes at one point: the margin
        tensor(0.5000)
    """

    uses_labels = True

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int,
        student_channels: int,
        teacher_channels: int,
        student_stage_channels: tuple[int, ...] = (),
        teacher_stage_channels: tuple[int, ...] = (),
        weight: Weight = 1.0,
        margin: Annotated[float, Ge(0)] = 0.5,
        normalize: bool = True,
        layers: list[str] | None = None,
        prototypes: Literal["batch", "image"] = "batch",
        negatives: Literal["teacher", "student", "both"] = "teacher",
        mining: Literal["all", "hard"] = "all",
        min_pixels: Annotated[int, Ge(1)] = 8,
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
        self.reads = ("embedding",) if chosen == ["embedding"] else ("embedding", "stages")
        self.adapters = nn.ModuleDict({layer: match_channels(*widths[layer]) for layer in chosen})

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        values = []
        for layer, adapter in self.adapters.items():
            ours, theirs = features(student, layer), features(teacher, layer)
            s, counts = self.prototypes_of(adapter(ours), target, inside(student, ours))
            t, counts_t = self.prototypes_of(theirs, target, inside(teacher, theirs))
            values.append(self.triplets(s, t, torch.minimum(counts, counts_t)))  # a coarser grid may miss a class
        return {"i2ckd": self.weight * torch.stack(values).mean()}

    def prototypes_of(self, layer: Tensor, target: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N or 1, K, C) prototypes and (N or 1, K) pixel counts of a feature map (N, C, h, w), without padding."""
        masks = class_masks(target, layer, num_classes=self.num_classes, ignore_index=self.ignore_index, valid=valid)
        means, counts = class_means(layer, masks, over=self.prototypes)
        return (unit(means, dim=-1) if self.normalize else means), counts

    def triplets(self, s: Tensor, t: Tensor, counts: Tensor) -> Tensor:
        """Mean over the sets of prototypes (n, K, C) that hold a class; ``counts`` (n, K) of their pixels."""
        present, share = counts > 0, share_of_pixels(counts, min_pixels=self.min_pixels)
        image, a, b = present_pairs(present)
        own, first, second = (torch.cat(both) for both in ((image, image), (a, b), (b, a)))  # (P,) set, c, c'
        others = {"teacher": [t], "student": [s], "both": [t, s]}[self.negatives]
        negative = torch.stack([distance(s[own, first], other[own, second]) for other in others])  # (m, P)
        weight = (share[own, first] * share[own, second]).expand_as(negative)
        if self.mining == "hard":
            weight = weight * nearest(negative, own * self.num_classes + first, second, anchors=present.numel())
        positive = torch.where(present, distance(s, t), 0)  # (n, K)
        hinge = (positive[own, first] - negative + self.margin).clamp(min=0)
        total = weight.new_zeros(len(s)).index_add(0, own, weight.sum(dim=0))  # (n,) the weights of a set
        value = (weight / total[own] * hinge).sum()
        alone = torch.where(present.sum(dim=1, keepdim=True) == 1, positive, 0).sum()  # one class has no negative
        return (value + alone) / present.any(dim=1).sum().clamp(min=1)


def nearest(negative: Tensor, anchor: Tensor, other: Tensor, *, anchors: int) -> Tensor:
    """Which negative is the nearest of its anchor, over all kinds; the first of equal ones.

    Args:
        negative: (m, P) distances of m kinds.
        anchor: (P,) numbers of the anchors, below ``anchors``.
        other: (P,) classes of the negatives.

    Returns:
        (m, P) bool.
    """
    negative = negative.detach()
    least = negative.new_full((anchors,), torch.inf).scatter_reduce(0, anchor, negative.amin(dim=0), "amin")
    equal = negative == least[anchor]
    place = len(negative) * other + torch.arange(len(negative), device=other.device)[:, None]  # (m, P)
    last = torch.iinfo(place.dtype).max
    candidates = torch.where(equal, place, last).amin(dim=0)
    return equal & (place == place.new_full((anchors,), last).scatter_reduce(0, anchor, candidates, "amin")[anchor])


def features(output: SegOutput, layer: str) -> Tensor:
    """``embedding``, or the encoder stage with that number."""
    return output.embedding if layer == "embedding" else output.stages[int(layer.removeprefix("stage")) - 1]
