"""Similarities between pixels, without ever holding all of them.

The gradient of ``KL(softmax(t) || softmax(s))`` with respect to the similarities s is ``softmax(s) - softmax(t)``. So a
block of rows gives its value *and* its share of the features' gradient while it is in memory; the forward pass
accumulates both, saves one tensor of the features' size for the backward pass, and recomputes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Bytes that the blocks of similarities may take at a time. On a CPU a block that fits the level-2 cache is fastest;
#: on a GPU larger ones keep it busy. See benchmarks/losses.py.
BUDGET = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}
#: Buffers of a block's size that live at once: two similarities and two passing values.
LIVE = 4
#: exp() of similarities up to this needs no shift by the row's maximum in float32.
SAFE_EXPONENT = 40.0


def relation_kl(
    student: Tensor, teacher: Tensor, *, temperature: float, group: int = 1, valid: Tensor | None = None
) -> Tensor:
    """How differently the two networks relate pixels, within and across the images of a group.

    For every ordered pair (i, j) of images of a group, i = j included, each pixel of image i has a distribution over
    the pixels of image j: softmax of its cosines over ``temperature``. The result is the KL divergence of the student's
    from the teacher's, averaged over pixels and pairs; groups count by their number of images.

    Args:
        student, teacher: (N, C_S, A) and (N, C_T, A), columns of unit length; gradient flows to the student.
        temperature: tau inside the softmax. No factor of tau^2, as in CIRKD.
        group: consecutive images that are related to each other; a last, smaller group takes what is left.
        valid: (N, A) bool; pixels that are False neither relate nor are related to. None: all take part.

    Returns:
        a scalar; a connected zero when no pixel is valid.
    """
    images = student.shape[0]
    total = student.new_zeros(())
    for first in range(0, images, group):
        part = slice(first, first + group)
        count = student[part].shape[0]
        mask = None if valid is None else valid[part]
        value: Tensor = _SelfRelations.apply(
            student[part].transpose(1, 2), teacher[part].transpose(1, 2), temperature, mask
        )
        total = total + value * (count / images)
    return total


def reference_kl(anchors_s: Tensor, anchors_t: Tensor, references: Tensor, *, temperature: float) -> Tensor:
    """How differently the two networks relate pixels to a fixed set of vectors: mean KL over the anchors.

    Args:
        anchors_s, anchors_t: (R, C) unit rows of student and teacher in one space; gradient flows to the student.
        references: (M, C) unit rows, without gradient.
        temperature: tau inside the softmax over the M references.

    Returns:
        a scalar; a connected zero when there is no anchor or no reference.
    """
    if not len(anchors_s) or not len(references):
        return anchors_s.sum() * 0.0
    value: Tensor = _ReferenceRelations.apply(anchors_s, anchors_t, references, temperature)
    return value


def gram_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over images and pixel pairs of the squared difference of the two cosine maps.

    ``||S^T S - T^T T||_F^2 = ||S S^T||_F^2 - 2 ||S T^T||_F^2 + ||T T^T||_F^2``: three C x C products instead of two
    A x A maps.

    Args:
        student, teacher: (N, C_S, A) and (N, C_T, A), columns of unit length.
    """
    pixels = student.shape[-1]
    terms = ((student, student), (student, teacher), (teacher, teacher))
    own, cross, other = ((a @ b.transpose(1, 2) / pixels).square().sum(dim=(1, 2)) for a, b in terms)
    return (own - 2 * cross + other).mean()


class _SelfRelations(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float, valid: Tensor | None) -> Tensor:
        """(n, A, C_S) and (n, A, C_T) of one group, rows of unit length."""
        images, pixels = student.shape[:2]
        rows_s, rows_t = student.reshape(images * pixels, -1), teacher.reshape(images * pixels, -1)
        columns_s, columns_t = rows_s / temperature, rows_t / temperature
        weight = _row_weights(valid, images=images, pixels=pixels, like=rows_s)
        hidden = None if valid is None else ~valid.reshape(1, images, pixels)
        gradient = torch.zeros_like(rows_s)
        value = rows_s.new_zeros(())
        for block in _blocks(rows_s, columns=images * pixels):
            s = (rows_s[block] @ columns_s.T).view(-1, images, pixels)
            t = (rows_t[block] @ columns_t.T).view(-1, images, pixels)
            divergence, slope = _kl_and_slope(s, t, temperature=temperature, hidden=hidden)
            share = weight[block] if isinstance(weight, Tensor) else weight
            value += (divergence.sum(dim=1) * share).sum()
            slope = slope.view(-1, images * pixels)
            slope *= share[:, None] if isinstance(share, Tensor) else share
            gradient[block] += slope @ columns_s
            gradient.addmm_(slope.T, rows_s[block], alpha=1 / temperature)
        ctx.save_for_backward(gradient.view_as(student))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None


class _ReferenceRelations(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_s: Tensor, rows_t: Tensor, references: Tensor, temperature: float) -> Tensor:
        columns = references / temperature
        gradient = torch.empty_like(rows_s)
        value = rows_s.new_zeros(())
        for block in _blocks(rows_s, columns=len(references)):
            divergence, slope = _kl_and_slope(
                rows_s[block] @ columns.T, rows_t[block] @ columns.T, temperature=temperature, hidden=None
            )
            value += divergence.sum()
            torch.mm(slope, columns, out=gradient[block])
        gradient /= len(rows_s)
        ctx.save_for_backward(gradient)
        return value / len(rows_s)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None


def _kl_and_slope(s: Tensor, t: Tensor, *, temperature: float, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """KL(softmax(t) || softmax(s)) over the last dimension, and its derivative by s. Overwrites both inputs."""
    if hidden is not None:
        s.masked_fill_(hidden, -torch.inf)
        t.masked_fill_(hidden, -torch.inf)
    if 1 / temperature > SAFE_EXPONENT:
        s -= s.amax(dim=-1, keepdim=True).clamp(min=-1 / temperature)  # the clamp: rows without a valid column
        t -= t.amax(dim=-1, keepdim=True).clamp(min=-1 / temperature)
    gap = t - s  # (..., M)
    if hidden is not None:
        gap.masked_fill_(hidden, 0)
    s.exp_()
    t.exp_()
    sum_s, sum_t = s.sum(dim=-1, keepdim=True), t.sum(dim=-1, keepdim=True)
    if hidden is not None:
        sum_s, sum_t = (total.masked_fill(total == 0, 1) for total in (sum_s, sum_t))
    t /= sum_t
    divergence = gap.mul_(t).sum(dim=-1) + (sum_s / sum_t).log().squeeze(-1)
    s /= sum_s
    s -= t
    return divergence, s


def _row_weights(valid: Tensor | None, *, images: int, pixels: int, like: Tensor) -> Tensor | float:
    """The factor of each row: 1 / (pixels * pairs), or over the valid rows and the images that have some."""
    if valid is None:
        return 1 / (pixels * images**2)
    pairs = valid.any(dim=1).sum().square().clamp(min=1)
    share = valid.to(like.dtype) / valid.sum(dim=1, keepdim=True).clamp(min=1) / pairs
    return share.reshape(-1)


def _blocks(rows: Tensor, *, columns: int) -> list[slice]:
    """Slices of rows whose similarities with all columns stay within the budget."""
    budget = BUDGET.get(rows.device.type, BUDGET["cuda"])
    step = max(16, budget // (LIVE * columns * rows.element_size()))
    return [slice(start, start + step) for start in range(0, len(rows), step)]
