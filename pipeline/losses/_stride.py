"""Losses of pixel pairs on embeddings of any stride: they compare as many pixels as at the published stride."""

from __future__ import annotations

import logging
import math

import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)

#: Input size / size of the embedding in the networks for which weights and costs of these losses are published.
PUBLISHED = 8


def pooling(stride: int, chosen: int | None, *, loss: str) -> int:
    """Factor of :func:`pooled` for a loss; warns of a network of stride 1.

    Args:
        stride: of the student's embedding.
        chosen: the option ``pool``; None: the factor that gives the published stride, and 1 for coarser strides.
        loss: name of the loss, for the warning.

    Example:
        >>> [pooling(stride, None, loss="pfs") for stride in (2, 4, 8, 32)], pooling(4, 1, loss="pfs")
        ([4, 2, 1, 1], 1)
    """
    pool = max(1, PUBLISHED // stride) if chosen is None else chosen
    if stride == 1:
        log.warning(
            "losses.%s: the student's embedding has stride 1: %d times the pixels of stride %d and, with pool %d, %g "
            "times the pairs; a network of stride 4 or 8 trains faster",
            loss, PUBLISHED**2, PUBLISHED, pool, (PUBLISHED / pool) ** 4,
        )  # fmt: skip
    return pool


def pooled(features: Tensor, pool: int) -> Tensor:
    """(N, C, h, w) to (N, C, ceil(h / pool), ceil(w / pool)): means of pool x pool pixels."""
    return features if pool == 1 else F.avg_pool2d(features, pool, ceil_mode=True)


def published_pixels(pixels: int, *, stride: int) -> int:
    """Number of pixels at the published stride of images that have ``pixels`` at ``stride``; no more than ``pixels``.

    Example:
        >>> published_pixels(100, stride=4), published_pixels(100, stride=16)
        (25, 100)
    """
    return math.ceil(pixels * min(1.0, stride / PUBLISHED) ** 2)
