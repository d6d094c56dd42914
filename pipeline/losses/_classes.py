"""Labels at feature size, means of features over classes, and the pairs of classes that are present."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_labels(target: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """Nearest neighbour: (N, H, W) int64 to (N, h, w) int64. Interpolation would give wrong classes at borders."""
    if target.shape[-2:] == tuple(size):
        return target
    return F.interpolate(target[:, None].float(), size=tuple(size), mode="nearest")[:, 0].to(target.dtype)


def class_masks(
    target: Tensor, features: Tensor, *, num_classes: int, ignore_index: int, valid: Tensor | None = None
) -> Tensor:
    """One-hot masks (N, K, h*w) of a target (N, H, W) at the size and in the dtype of features (N, C, h, w).

    An ignored or unknown id belongs to no class, nor does a position that is not ``valid`` (N, h, w): the label of a
    cell that shows some padding may be one of the frame.

    Example:
        >>> class_masks(torch.tensor([[[0, 1, 255, 1]]]), torch.zeros(1, 3, 1, 4), num_classes=2, ignore_index=255)
        tensor([[[1., 0., 0., 0.],
                 [0., 1., 0., 1.]]])
    """
    flat = resize_labels(target, features.shape[-2:]).flatten(1)[:, None]
    classes = torch.arange(num_classes, device=flat.device)[:, None]
    masks = (flat == classes) & (flat != ignore_index)
    return (masks if valid is None else masks & valid.flatten(1)[:, None]).to(features.dtype)


def class_means(features: Tensor, masks: Tensor, *, over: str = "image") -> tuple[Tensor, Tensor]:
    """Mean feature of every class, by one matrix product.

    Args:
        features: (N, C, h, w).
        masks: (N, K, h*w) from :func:`class_masks`.
        over: ``image`` gives one mean per image, ``batch`` one for all images together (N becomes 1).

    Returns:
        means (N, K, C), zero where the class is absent, and pixel counts (N, K).
    """
    sums = masks @ features.flatten(2).transpose(1, 2)  # (N, K, C)
    counts = masks.sum(dim=-1)
    if over == "batch":
        sums, counts = sums.sum(dim=0, keepdim=True), counts.sum(dim=0, keepdim=True)
    return sums / counts.clamp(min=1)[..., None], counts


def share_of_pixels(counts: Tensor, *, min_pixels: int) -> Tensor:
    """How much a class mean counts: 1 with ``min_pixels`` pixels or more, with fewer pixels in proportion to them.

    Example:
        >>> share_of_pixels(torch.tensor([0.0, 1.0, 4.0, 9.0]), min_pixels=4)
        tensor([0.0000, 0.2500, 1.0000, 1.0000])
    """
    return (counts / min_pixels).clamp(max=1)


def present_pairs(present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of different classes of one image, without anything of size K^2: most classes are in no image.

    Args:
        present: (N, K) bool.

    Returns:
        image, first class and second class of each pair, (P,) each; first < second, ordered by image, first, second.

    Example:
        >>> present_pairs(torch.tensor([[True, False, True, True]]))
        (tensor([0, 0, 0]), tensor([0, 0, 2]), tensor([2, 3, 3]))
    """
    image, classes = present.nonzero(as_tuple=True)  # (R,)
    own = torch.arange(len(image), device=image.device)
    later = present.sum(dim=1).cumsum(dim=0)[image] - 1 - own  # (R,) classes of the same image that follow
    first = own.repeat_interleave(later)  # (P,)
    start = later.cumsum(dim=0) - later  # (R,) the first pair of each class
    second = first + 1 + torch.arange(len(first), device=first.device) - start[first]
    return image[first], classes[first], classes[second]
