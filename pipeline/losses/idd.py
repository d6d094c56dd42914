"""Inter-class distance distillation (IDD)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from pipeline.losses._adapters import Adapter, match_channels
from pipeline.losses._base import DistillationLoss
from pipeline.losses._classes import class_masks, class_means, present_pairs, share_of_pixels
from pipeline.losses._numerics import distance
from pipeline.losses._padding import filled, inside, mean
from pipeline.losses._standard import standardised
from pipeline.losses._weights import Weight
from pipeline.models import SegOutput

READ_OUT_WIDTH = 64  # channels of the position read-out, ours


class IDD(DistillationLoss):
    r"""The student learns the teacher's distances between classes, and the position of a pixel in the image.

    Re-implementation after the published idea (Zhang et al., IJCAI 2022, arXiv 2205.03650: a graph of inter-class
    distances, and a module for position information); details reconstructed:

    - ``idd``: edge e(c, c') = ||v_c - v_c'|| between the mean features of two classes of an image; mean of
      ``(e_T - e_S)^2`` over the pairs of classes present (reconstructed: the mean, so that the value does not depend on
      the number of classes in the image; layer and weight). The teacher's embedding is divided by its deviation first,
      and a pair counts by the pixels of its classes: ``w_c w_c'`` with ``w_c = min(1, pixels / min_pixels)`` (both
      ours).
    - ``idd_position`` (reconstructed, off by default): a read-out without zero padding, two 3x3 convolutions, predicts
      the x and y of a pixel from the teacher's embedding (``idd_read_out`` fits it to the true position, as Islam et
      al. 2020, arXiv 2001.08248, do); the read-out must give the same for the student's adapted embedding. The target
      is the teacher's prediction, and the read-out learns from the teacher alone.

    Absent classes are left out and labels are resized by nearest neighbour, unlike in a third-party re-implementation.
    The mean over pairs runs over the batch of one process. The published total has an adversarial term, which needs a
    second optimiser and is left out. Used with pixel-wise KD: ``loss: [kd, idd]``.

    Args:
        num_classes, ignore_index, student_channels, teacher_channels: offered by the run.
        weight: factor of the graph term; 0.005 (ours: on eight frames of streets, with a new adapter, the gradient
            of a weight of 1 is 75 to 120 times that of the cross-entropy).
        position_weight: factor of the position term; 0 leaves it out.
        centers: class means per ``image`` or per ``batch``.
        normalize: ``teacher`` divides the teacher's embedding by the deviation of all values around the means of their
            channels, over all training steps so far; ``channels`` divides each channel by its own deviation; ``mean``
            divides the edges of each network by their mean, so that only proportions count (our variant; it needs no
            adapter, and scaling the student's features changes nothing); ``none`` takes both as they are, and the term
            grows with the square of the teacher's scale.
        min_pixels: a class with this many pixels in the embedding or more counts fully. With fewer it counts in
            proportion to them, because the mean of a few pixels is mostly noise. 1: every class counts the same.
        adapter: before the 1x1 convolution: ``plain``, nothing, or ``norm``, batch norm without scale and offset, so
            that the scale of the student's embedding does not matter (ours; ``normalize: mean`` has no adapter).

    Shapes: embeddings (N, C_S, h, w) and (N, C_T, h, w), target (N, H, W). Where C_S and C_T differ, a 1x1 convolution
    brings the student's embedding to C_T, so that lengths in both spaces are comparable.

    Example:
        >>> facts = {"num_classes": 2, "ignore_index": 255, "student_channels": 1, "teacher_channels": 1}
        >>> loss = IDD(**facts, weight=1.0, normalize="none")
        >>> s = SegOutput(logits=torch.zeros(1, 2, 1, 2), embedding=torch.tensor([[[[0.0, 1.0]]]]))
        >>> t = SegOutput(logits=torch.zeros(1, 2, 1, 2), embedding=torch.tensor([[[[0.0, 3.0]]]]))
        >>> loss(s, t, torch.tensor([[[0, 1]]]))["idd"]  # edges 1 and 3
        tensor(4.)
    """

    reads = ("embedding",)
    uses_labels = True

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int,
        student_channels: int,
        teacher_channels: int,
        weight: Weight = 0.005,
        position_weight: Weight = 0.0,
        centers: Literal["image", "batch"] = "image",
        normalize: Literal["teacher", "channels", "mean", "none"] = "teacher",
        min_pixels: Annotated[int, Ge(1)] = 8,
        adapter: Adapter = "plain",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.weight = weight
        self.position_weight = position_weight
        self.centers = centers
        self.normalize = normalize
        self.min_pixels = min_pixels
        relative = normalize == "mean"
        self.standard = standardised(teacher_channels, "none" if normalize == "mean" else normalize)
        if weight:
            self.adapter = nn.Identity() if relative else match_channels(student_channels, teacher_channels, adapter)
        if position_weight:
            self.position_adapter = match_channels(student_channels, teacher_channels, adapter)
            self.read_out = nn.Sequential(
                nn.Conv2d(teacher_channels, READ_OUT_WIDTH, kernel_size=3, padding=1, padding_mode="replicate"),
                nn.ReLU(),
                nn.Conv2d(READ_OUT_WIDTH, 2, kernel_size=3, padding=1, padding_mode="replicate"),
            )

    def forward(self, student: SegOutput, teacher: SegOutput, target: Tensor) -> dict[str, Tensor]:
        valid = inside(student, student.embedding)
        terms, theirs = {}, self.standard(teacher.embedding, valid)
        if self.weight:
            masks = class_masks(
                target, student.embedding, num_classes=self.num_classes, ignore_index=self.ignore_index, valid=valid
            )
            terms["idd"] = self.weight * self.graph(self.adapter(filled(student.embedding, valid)), theirs, masks)
        if self.position_weight:
            ours = self.position_adapter(filled(student.embedding, valid))  # filled: the read-out is 3x3
            terms.update(self.position(ours, filled(theirs, valid), valid))
        return terms

    def graph(self, student: Tensor, teacher: Tensor, masks: Tensor) -> Tensor:
        """Mean squared difference of the edges between classes that are present; a class counts by its pixels."""
        means, counts = class_means(student, masks, over=self.centers)
        means_t, _ = class_means(teacher, masks, over=self.centers)
        image, first, second = present_pairs(counts > 0)
        share = share_of_pixels(counts, min_pixels=self.min_pixels)  # (N, K)
        weight = share[image, first] * share[image, second]  # (pairs,)
        weight = weight / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
        edges, edges_t = (distance(v[image, first], v[image, second]) for v in (means, means_t))
        if self.normalize == "mean":
            edges, edges_t = (e / (weight * e).sum().clamp(min=1e-6) for e in (edges, edges_t))
        return (weight * (edges_t - edges).square()).sum() + 0.0 * means.sum()

    def position(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> dict[str, Tensor]:
        """The student's term, and the fit of the read-out to the teacher."""
        predicted = self.read_out(teacher.detach())
        height, width = predicted.shape[-2:]
        y, x = (torch.linspace(0, 1, side, device=predicted.device, dtype=predicted.dtype) for side in (height, width))
        position = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
        frozen = {name: parameter.detach() for name, parameter in self.read_out.named_parameters()}
        predicted_by_student = torch.func.functional_call(self.read_out, frozen, (student,))
        gap = F.mse_loss(predicted_by_student, predicted.detach(), reduction="none")
        miss = F.mse_loss(predicted, position.expand_as(predicted), reduction="none")
        return {"idd_position": self.position_weight * mean(gap, valid), "idd_read_out": mean(miss, valid)}
