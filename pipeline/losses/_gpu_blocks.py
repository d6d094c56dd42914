"""Similarities between pixels on GPUs: blocks with rows of all groups of images, each computed by few kernels.

:mod:`pipeline.losses._similarity` has the formulas and the blocks of CPUs, which are small, to fit the cache, and many.
On a GPU the start of a kernel takes longer than the arithmetic of such a block. So a block has rows of all groups at
once here. Two batched products give the similarities of student and teacher, one function (:func:`divergence`) gives
the value and the gradient with respect to the student's similarities, two products give the gradient of the features.

On CUDA that function is compiled (``torch.compile``): one kernel instead of a dozen. Its first result is compared with
that of the plain function; where they differ, or where it does not compile, the plain function is used and a warning
printed. ``TORCH_COMPILE_DISABLE=1`` in the environment switches compiling off.

Products of float32 run in TensorFloat-32 where the GPU has it; sums, softmaxes and gradients are stored in float32. A
mantissa of 10 bits changes cosines by 0.2 % at most, nearly all by the same share, as if the temperature were a little
higher. Products in bfloat16 would round the cosines themselves to 8 bits. Very low temperatures need exact products.

The tests run this file on CPUs, plain and compiled. It has not run on a GPU yet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.losses._blocks import to_compute
from pipeline.losses._padding import HIDDEN

log = logging.getLogger(__name__)

BUFFERS = 5  # of a block's size, at the same time, when it is not compiled
MIN_ROWS = 16  # of a block, for any budget
#: Largest difference of the compiled function from the plain one: of the mean divergence, of a gradient per weight.
TOLERANCE = 1e-4

#: (similarities of the student, of the teacher, weights of rows) -> (value, gradient)
Divergence = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def relation_kl(
    student: Tensor, teacher: Tensor, *, temperature: float, group: int, valid: Tensor | None, budget: int, exact: bool
) -> Tensor:
    """As :func:`pipeline.losses._similarity.relation_kl`, without waiting for the device.

    Args:
        budget: bytes that the blocks may take at the same time.
        exact: products in float32, not in TensorFloat-32.
    """
    images = len(student)
    whole = images - images % group
    total = student.new_zeros(())
    for first, end in ((0, whole), (whole, images)):  # the last group may be smaller
        if first < end:
            size = min(group, end - first)
            rows_s, rows_t = (_rows(x[first:end], group=size) for x in (student, teacher))
            weight, hidden = _selection(rows_s, size=size, valid=None if valid is None else valid[first:end])
            with torch.no_grad(), _tensor_float32(student.is_cuda and not exact):
                value, gradient = _self_relations(
                    rows_s, rows_t, weight=weight, hidden=hidden, temperature=temperature, budget=budget
                )
            attached: Tensor = _WithGradient.apply(rows_s, value, gradient)
            total = total + attached * ((end - first) / images)
    return total


def reference_kl(
    anchors_s: Tensor, anchors_t: Tensor, references: Tensor, *, temperature: float, budget: int, exact: bool
) -> Tensor:
    """As :func:`pipeline.losses._similarity.reference_kl`, for one anchor and one reference at least."""
    columns = references / temperature
    value, gradient = anchors_s.new_zeros(()), torch.empty_like(anchors_s)
    weight = anchors_s.new_full((len(anchors_s), 1), 1 / len(anchors_s))
    step = _step(anchors_s, columns=len(references), budget=budget)
    with torch.no_grad(), _tensor_float32(anchors_s.is_cuda and not exact):
        for first in to_compute(range(0, len(anchors_s), step)):
            block = slice(first, first + step)
            s, t = (rows[block] @ columns.T for rows in (anchors_s, anchors_t))
            part, gap = _divergence(s, t, weight[block])
            value += part
            gradient[block] = gap @ columns
            del s, t, gap  # before the next block is computed
    attached: Tensor = _WithGradient.apply(anchors_s, value, gradient)
    return attached


def divergence(s: Tensor, t: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted sum over rows of KL(softmax(t) || softmax(s)), and its gradient with respect to s.

    Args:
        s, t: (rows, columns), not changed.
        weight: (rows, 1).

    Returns:
        a scalar and (rows, columns).
    """
    log_s, log_t = s.log_softmax(dim=1), t.log_softmax(dim=1)
    gap = log_t - log_s
    p = log_t.exp_()
    value = (weight * gap.mul_(p).sum(dim=1, keepdim=True)).sum()
    return value, log_s.exp_().sub_(p).mul_(weight)


def checked(compiled: Divergence, s: Tensor, t: Tensor, weight: Tensor) -> Divergence:
    """The compiled function, if it works and agrees with the plain one on these arguments; else the plain one.

    Raises:
        torch.OutOfMemoryError: from either.
    """
    try:
        results = compiled(s, t, weight)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a compiler or its tools are missing, or any error of theirs
        reason = str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
        log.warning("the losses of pixel pairs could not be compiled and will be slower: %s", reason)
        return divergence
    scales = weight.sum(), weight.max()
    for result, expected, scale in zip(results, divergence(s, t, weight), scales, strict=True):
        difference = float((result - expected).abs().max())
        if not difference <= TOLERANCE * float(scale):  # also where a result is NaN
            log.warning(
                "the compiled losses of pixel pairs differ by %g and are not used; training is slower", difference
            )
            return divergence
    return compiled


class _Chosen:
    """:func:`divergence`, compiled at its first call on CUDA."""

    def __init__(self) -> None:
        self._on_cuda: Divergence | None = None

    def __call__(self, s: Tensor, t: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        if not s.is_cuda or type(s) is not Tensor:  # a trace without data is not compiled
            return divergence(s, t, weight)
        if self._on_cuda is None:
            self._on_cuda = checked(torch.compile(divergence, dynamic=True, fullgraph=True), s, t, weight)
        return self._on_cuda(s, t, weight)


_divergence = _Chosen()


class _WithGradient(torch.autograd.Function):
    """A value whose gradient with respect to ``rows`` is known already."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None


def _rows(features: Tensor, *, group: int) -> Tensor:
    """(G * P, C, A) to (G, P * A, C)."""
    return features.transpose(1, 2).reshape(-1, group * features.shape[2], features.shape[1])


def _selection(rows: Tensor, *, size: int, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weights of the divergences, such that their sum is the mean of the groups, and the pixels that take no part.

    Args:
        rows: (G, P * A, C).
        size: P, images of a group.
        valid: (G * P, A) bool.

    Returns:
        (G, P * A, P), for every row and image, and None or (G, 1, P, A) bool.
    """
    groups, pixels = len(rows), rows.shape[1] // size
    if valid is None:
        return rows.new_full((groups, size * pixels, size), 1 / (groups * size**2 * pixels)), None
    valid = valid.view(groups, size, pixels)
    counts = valid.sum(dim=2, keepdim=True)
    present = (counts > 0).sum(dim=1, keepdim=True)  # images with a valid pixel
    weight = valid.to(rows.dtype) / (groups * present.clamp(min=1).square() * counts.clamp(min=1))
    return weight.flatten(1)[..., None].expand(-1, -1, size), ~valid[:, None]


def _self_relations(
    rows_s: Tensor, rows_t: Tensor, *, weight: Tensor, hidden: Tensor | None, temperature: float, budget: int
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the divergences of each row from each image of its group, and its gradient (G, R, C_S).

    Args:
        rows_s, rows_t: (G, R, C_S) and (G, R, C_T).
        weight, hidden: see :func:`_selection`.
    """
    groups, rows, size = weight.shape
    columns_s, columns_t = rows_s / temperature, rows_t / temperature
    value, gradient = rows_s.new_zeros(()), torch.zeros_like(rows_s)
    step = _step(rows_s, columns=groups * rows, budget=budget)
    for first in to_compute(range(0, rows, step)):
        block = slice(first, first + step)
        s = torch.bmm(rows_s[:, block], columns_s.mT)  # (G, n, R)
        t = torch.bmm(rows_t[:, block], columns_t.mT)
        if hidden is not None:
            for similarities in (s, t):
                similarities.view(groups, -1, size, rows // size).masked_fill_(hidden, HIDDEN)
        pixels = rows // size
        part, gap = _divergence(s.view(-1, pixels), t.view(-1, pixels), weight[:, block].reshape(-1, 1))
        value += part
        gap = gap.view_as(s)
        gradient[:, block].baddbmm_(gap, rows_s)  # as rows
        gradient.baddbmm_(gap.mT, rows_s[:, block])  # the same similarities, for the columns
        del s, t, gap  # before the next block is computed
    return value, gradient.div_(temperature)


def _step(rows: Tensor, *, columns: int, budget: int) -> int:
    """Number of rows whose similarities with so many columns fit the budget."""
    return max(MIN_ROWS, budget // (BUFFERS * columns * rows.element_size()))


@contextmanager
def _tensor_float32(allowed: bool) -> Iterator[None]:
    """Products of float32 in TensorFloat-32, unless ``torch.set_float32_matmul_precision`` set another precision."""
    before = torch.get_float32_matmul_precision()
    if not allowed or before != "highest":
        yield
        return
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
