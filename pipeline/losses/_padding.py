"""Which positions of feature maps show a frame, and terms without the others.

A frame that is smaller than its crop leaves a border of padding, about which neither network has an opinion worth
learning. Pixels of the frame without a label are no padding: the teacher has an opinion on them. Every term is a mean
over the images of a batch, where an image counts once, whatever part of its crop is padding: so a term has the value
that it has for the frames alone, and processes may divide a batch as they like.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pipeline.models import SegOutput

HIDDEN = -1e30  # before a softmax over positions or a maximum: takes no part in it, and differences of it are 0


def inside(output: SegOutput, features: Tensor) -> Tensor | None:
    """Positions of features (N, C, h, w) whose whole cells show the frame, (N, h, w) bool; None: all of them.

    Args:
        output: of the student or the teacher; both have the same ``valid``.
    """
    if output.valid is None:
        return None
    size = (features.shape[-2], features.shape[-1])
    padding: Tensor = F.adaptive_max_pool2d((~output.valid)[:, None].float(), size)  # 1: the cell has some
    return padding[:, 0] == 0


def whole(valid: Tensor | None, size: int, *, ceil_mode: bool) -> Tensor | None:
    """Squares of ``size`` x ``size`` positions that are all valid, (N, h, w) to (N, h', w'), as pooling cuts them."""
    if valid is None or size == 1:
        return valid
    padding: Tensor = F.max_pool2d((~valid)[:, None].float(), size, ceil_mode=ceil_mode)
    return padding[:, 0] == 0


def mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over images of the mean over an image's valid positions; an image without one adds 0.

    Args:
        values: (N, ...) or (N, C, ...), where ... are the dimensions of positions; channels count the same.
        valid: (N, ...) bool; None: all positions.

    Example:
        >>> import torch
        >>> mean(torch.tensor([[1.0, 3.0], [5.0, 9.0]]), torch.tensor([[True, True], [True, False]]))
        tensor(3.5000)
    """
    if valid is None:
        return values.mean()
    if values.ndim > valid.ndim:
        values = values.mean(dim=1)
    counts = valid.flatten(1).sum(dim=1).clamp(min=1)
    return (values.masked_fill(~valid, 0.0).flatten(1).sum(dim=1) / counts).mean()


def filled(features: Tensor, valid: Tensor | None, value: float = 0.0) -> Tensor:
    """Features (N, C, ...) with a value in place of those at positions that are not valid (N, ...)."""
    return features if valid is None else features.masked_fill(~valid[:, None], value)
