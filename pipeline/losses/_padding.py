"""Which positions of feature maps show a frame, and means over these positions only.

If a frame is smaller than its crop, the rest of the crop is padding. No network can teach anything there. Pixels of the
frame without a label are no padding, because the teacher predicts classes there. Every term is a mean over the images
of a batch, and each image counts once, with any amount of padding. So a term has the same value as for the frames
alone, and the division of a batch among processes does not matter.
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
    """Features (N, C, ...) that have ``value`` at the positions that are not valid (N, ...)."""
    return features if valid is None else features.masked_fill(~valid[:, None], value)
