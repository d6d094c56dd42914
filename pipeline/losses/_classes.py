"""Labels at feature size, and means of features over classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_labels(target: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """Nearest neighbour: (N, H, W) int64 to (N, h, w) int64. Interpolation would give wrong classes at borders."""
    if target.shape[-2:] == tuple(size):
        return target
    return F.interpolate(target[:, None].float(), size=tuple(size), mode="nearest")[:, 0].to(target.dtype)


def class_masks(target: Tensor, features: Tensor, *, num_classes: int, ignore_index: int) -> Tensor:
    """One-hot masks (N, K, h*w) of a target (N, H, W) at the size and in the dtype of features (N, C, h, w).

    An ignored or unknown id belongs to no class.

    Example:
        >>> class_masks(torch.tensor([[[0, 1, 255, 1]]]), torch.zeros(1, 3, 1, 4), num_classes=2, ignore_index=255)
        tensor([[[1., 0., 0., 0.],
                 [0., 1., 0., 1.]]])
    """
    flat = resize_labels(target, features.shape[-2:]).flatten(1)[:, None]
    classes = torch.arange(num_classes, device=flat.device)[:, None]
    return ((flat == classes) & (flat != ignore_index)).to(features.dtype)


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
