"""Labels for frames that have none: the confident predictions of a network, with a threshold for each class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Bins of a probability in the counts that thresholds are computed from.
BINS = 1000


class PseudoLabels(nn.Module):
    """A pixel gets its most probable class as label if the probability reaches the threshold of that class.

    The threshold of a class is ``threshold``. If less than the share ``keep`` of the pixels predicted as this class
    reach it, the threshold is the probability that this share reaches. One threshold for all classes would leave out
    classes of which the network is rarely sure: mostly rare and small ones. The rule and the values 0.9 and 0.5 are
    those in the code of Li et al. (CVPR 2019, arXiv 1904.10620) and of Yang and Soatto (CVPR 2020, arXiv 2004.05498):
    the median of a class's probabilities, at most 0.9.

    Args:
        num_classes: K.
        ignore_index: the id of pixels that get no label.
        threshold: probability at which a pixel of any class gets a label.
        keep: least share of the pixels of each predicted class that get a label, 0..1; 0: ``threshold`` decides alone.

    Attributes:
        thresholds: (K,) the threshold of each class; a checkpoint has them. Before :meth:`choose`, ``threshold``.

    Example:
        >>> labels = PseudoLabels(num_classes=2, ignore_index=255, threshold=0.9, keep=0.0)
        >>> probabilities = torch.tensor([[0.95, 0.6, 0.05], [0.05, 0.4, 0.95]])  # (classes, pixels)
        >>> labels(probabilities.log()[None, :, None]).tolist()
        [[[0, 255, 1]]]
    """

    thresholds: Tensor

    def __init__(self, *, num_classes: int, ignore_index: int, threshold: float, keep: float) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.threshold, self.keep = threshold, keep
        self.register_buffer("thresholds", torch.full((num_classes,), threshold))

    def forward(self, logits: Tensor, valid: Tensor | None = None) -> Tensor:
        """Labels (N, h, w) int64 from logits (N, K, h, w); pixels that are not ``valid`` (N, h, w) get none."""
        probability, classes = logits.float().softmax(dim=1).max(dim=1)
        sure = probability >= self.thresholds[classes]
        return classes.masked_fill(~(sure if valid is None else sure & valid), self.ignore_index)

    @property
    def no_counts(self) -> Tensor:
        """(K, BINS) zeros, to which :meth:`count` is added."""
        return torch.zeros(len(self.thresholds), BINS, dtype=torch.int64, device=self.thresholds.device)

    def count(self, logits: Tensor, valid: Tensor | None = None) -> Tensor:
        """How many pixels are predicted as each class with a probability in each bin, (K, BINS) int64."""
        probability, classes = logits.float().softmax(dim=1).max(dim=1)
        if valid is not None:
            probability, classes = probability[valid], classes[valid]
        bins = classes * BINS + (probability * BINS).long().clamp(max=BINS - 1)
        return torch.bincount(bins.flatten(), minlength=len(self.thresholds) * BINS).view(-1, BINS)

    def choose(self, counts: Tensor) -> None:
        """Set the thresholds from the sum of :meth:`count` over frames."""
        reached = counts.flip(1).cumsum(dim=1).flip(1)  # (K, BINS) pixels in this bin or a higher one
        enough = reached >= self.keep * counts.sum(dim=1, keepdim=True).double()
        lowest = (enough.sum(dim=1) - 1).to(torch.float64) / BINS
        self.thresholds.copy_(lowest.clamp(max=self.threshold))


def cross_entropy(
    logits: Tensor, labels: Tensor, *, ignore_index: int, class_weights: Tensor | None, valid: Tensor | None
) -> Tensor:
    """Cross-entropy of each image with hard labels, (N,): its sum over labelled pixels / the number of all its pixels.

    So an image with few labels counts less (as in FixMatch, Sohn et al. 2020, arXiv 2001.07685), and the divisor does
    not depend on the labels of other images.

    Args:
        logits: (N, K, h, w).
        labels: (N, h, w) ids.
        class_weights: (K,) or None.
        valid: (N, h, w), False at padding, which is not counted.
    """
    values = F.cross_entropy(
        logits.float(), labels, weight=class_weights, ignore_index=ignore_index, reduction="none"
    )  # (N, h, w), 0 without a label
    pixels = labels.shape[-2] * labels.shape[-1] if valid is None else valid.flatten(1).sum(dim=1).clamp(min=1)
    return values.flatten(1).sum(dim=1) / pixels
