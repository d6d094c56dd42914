"""Similarities between pixels, in blocks: all of them are never in memory at the same time.

The gradient of ``KL(softmax(t) || softmax(s))`` with respect to the similarities s is ``softmax(s) - softmax(t)``. So a
block of rows gives its value *and* its share of the features' gradient while it is in memory; the forward pass
accumulates both and saves one tensor of the features' size, so that the backward pass recomputes nothing.

On a CPU, similarities within a group of images are symmetric: a block on or above the diagonal serves the pixels of its
rows and those of its columns. The first pass over these blocks sums the exponentials, the second computes value and
gradient. Other devices use the blocks of :mod:`pipeline.losses._gpu_blocks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.losses import _gpu_blocks
from pipeline.losses._blocks import device_of, to_compute
from pipeline.losses._padding import filled

#: Most bytes that the blocks of similarities may take at the same time. See benchmarks/losses.py: on a CPU, matrix
#: products of smaller blocks are slow because they are thin, and larger blocks do not fit the cache.
BUDGET = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}
SHARE_OF_GPU = 1 / 64  # of its whole memory, free or not, for the blocks: so a resumed run has the same blocks
BUFFERS = 4  # of a block's size, at the same time
MIN_ROWS = 16  # of a block, for any budget
#: The exponential of a cosine divided by a lower temperature overflows float32; it is computed in float64.
LEAST_FLOAT32 = 1 / 40
LEAST_TEMPERATURE = 0.005  # in float64


def block_budget(device: torch.device) -> int:
    """Bytes that the blocks of similarities may take at the same time on a device."""
    if device.type == "cuda" and torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(device).total_memory
        return min(BUDGET["cuda"], int(SHARE_OF_GPU * memory))
    return BUDGET.get(device.type, BUDGET["cuda"])


def relation_kl(
    student: Tensor, teacher: Tensor, *, temperature: float, group: int = 1, valid: Tensor | None = None
) -> Tensor:
    """Difference between the two networks in how they relate pixels, within and across the images of a group.

    For every ordered pair (i, j) of images of a group, i = j included, each pixel of image i has a distribution over
    the pixels of image j: the softmax of its cosines / ``temperature``. The result is the KL divergence of the
    student's from the teacher's, averaged over pixels and pairs; a group counts by its number of images.

    Args:
        student, teacher: (N, C_S, A) and (N, C_T, A), columns of unit length; gradient flows to the student.
        temperature: tau inside the softmax, ``LEAST_TEMPERATURE`` or more. No factor of tau^2, as in CIRKD.
        group: number of consecutive images that are related to each other; the last group may be smaller.
        valid: (N, A) bool; pixels that are False are left out. None: all are valid.

    Returns:
        a scalar; a connected zero when no pixel is valid.
    """
    assert temperature >= LEAST_TEMPERATURE, "the options of the losses have this range"
    device = device_of(student)
    if device.type != "cpu":
        return _gpu_blocks.relation_kl(
            student, teacher, temperature=temperature, group=group, valid=valid, budget=block_budget(device),
            exact=temperature < LEAST_FLOAT32,
        )  # fmt: skip
    images, _, pixels = student.shape
    dtype = student.dtype if temperature >= LEAST_FLOAT32 else torch.float64
    total = student.sum() * 0.0
    for first in range(0, images, group):
        part = slice(first, first + group)
        rows_s, rows_t = (x[part].transpose(1, 2).flatten(0, 1) for x in (student, teacher))
        lengths = [pixels] * (len(rows_s) // pixels)
        share = len(lengths) / images
        if valid is not None:
            rows_s, rows_t = (rows[valid[part].flatten()] for rows in (rows_s, rows_t))
            lengths = [n for n in valid[part].sum(dim=1).tolist() if n]
        if lengths:
            value: Tensor = _SelfRelations.apply(rows_s.to(dtype), rows_t.to(dtype), lengths, temperature)
            total = total + share * value.to(total.dtype)
    return total


def reference_kl(anchors_s: Tensor, anchors_t: Tensor, references: Tensor, *, temperature: float) -> Tensor:
    """Difference between the two networks in how they relate pixels to a fixed set of vectors: mean KL over anchors.

    Args:
        anchors_s, anchors_t: (R, C) unit rows of student and teacher in one space; gradient flows to the student.
        references: (M, C) unit rows, without gradient.
        temperature: tau inside the softmax over the M references.

    Returns:
        a scalar; a connected zero when there is no anchor or no reference.
    """
    if not len(anchors_s) or not len(references):
        return anchors_s.sum() * 0.0
    device = device_of(anchors_s)
    if device.type != "cpu":
        return _gpu_blocks.reference_kl(
            anchors_s, anchors_t, references, temperature=temperature, budget=block_budget(device),
            exact=temperature < LEAST_FLOAT32,
        )  # fmt: skip
    value: Tensor = _ReferenceRelations.apply(anchors_s, anchors_t, references, temperature)
    return value


def gram_distance(student: Tensor, teacher: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Mean over images and pixel pairs of the squared difference of the two cosine maps.

    ``||S^T S - T^T T||_F^2 = ||S S^T||_F^2 - 2 ||S T^T||_F^2 + ||T T^T||_F^2``: three C x C products instead of two
    A x A maps.

    Args:
        student, teacher: (N, C_S, A) and (N, C_T, A), columns of unit length.
        valid: (N, A) bool; pixels that are False are left out. None: all are valid.
    """
    pixels: int | Tensor = student.shape[-1]
    if valid is not None:
        pixels = valid.sum(dim=1).clamp(min=1)[:, None, None]
        student, teacher = filled(student, valid), filled(teacher, valid)
    terms = ((student, student), (student, teacher), (teacher, teacher))
    own, cross, other = ((a @ b.transpose(1, 2) / pixels).square().sum(dim=(1, 2)) for a, b in terms)
    return (own - 2 * cross + other).mean()


class _SavedGradient(torch.autograd.Function):
    """Forward saves the gradient with respect to the first of its four inputs; the others have no gradient."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None


class _SelfRelations(_SavedGradient):
    @staticmethod
    def forward(ctx: Any, rows_s: Tensor, rows_t: Tensor, lengths: Sequence[int], temperature: float) -> Tensor:
        """Unit rows (R, C_S) and (R, C_T) of the images of one group; ``lengths``: number of rows of each image."""
        ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
        spans = list(zip([0, *ends], ends, strict=False))
        tiles = _tiles(rows_s, spans)
        block = _SymmetricBlocks(rows_s, rows_t, temperature=temperature, widest=max(b - a for _, a, b in tiles))

        sums_s, sums_t = (rows_s.new_zeros(len(rows_s), len(spans)) for _ in range(2))  # of a row over an image
        for image, a, b in to_compute(tiles):
            for exponentials, sums in zip(block.exponentials(a, b), (sums_s, sums_t), strict=True):
                for other, (start, end) in enumerate(spans[image:], start=image):
                    sums[a:b, other] += exponentials[:, max(start, a) - a : end - a].sum(dim=1)
                sums[b:, image] += exponentials[:, b - a :].sum(dim=0)  # the same similarities, for the columns

        weight = torch.cat([rows_s.new_full((n, 1), 1 / (n * len(spans) ** 2)) for n in lengths])
        value = (weight * (sums_s / sums_t).log()).sum()
        scale_s, scale_t = weight / sums_s, weight / sums_t

        gradient = torch.zeros_like(rows_s)
        for image, a, b in to_compute(tiles):
            gap, s, t = block.gap_and_exponentials(a, b)
            t *= block.both_ways(scale_t, spans, image, a, b)
            gap *= t
            value += gap.sum() - 0.5 * gap[:, : b - a].sum()  # the block on the diagonal has every pair twice
            s *= block.both_ways(scale_s, spans, image, a, b)
            s -= t
            gradient[a:b].addmm_(s, rows_s[a:])
            gradient[b:].addmm_(s[:, b - a :].T, rows_s[a:b])
        ctx.save_for_backward(gradient.div_(temperature))
        return value


class _SymmetricBlocks:
    """Blocks of rows a..b and columns a..R of both similarity matrices, in buffers that all blocks share.

    New memory for every block takes more time than the arithmetic. A result is valid until the next call.
    """

    def __init__(self, rows_s: Tensor, rows_t: Tensor, *, temperature: float, widest: int) -> None:
        self._pairs = [(rows, rows / temperature) for rows in (rows_s, rows_t)]
        self._buffers = [rows_s.new_empty(widest * len(rows_s)) for _ in range(BUFFERS)]
        # exp(cosine / tau) as it is in float32, which it fits there; relative to exp(1 / tau) in float64
        self._shift = 0.0 if temperature >= LEAST_FLOAT32 else -1 / temperature

    def _view(self, buffer: int, a: int, b: int) -> Tensor:
        columns = len(self._pairs[0][0]) - a
        return self._buffers[buffer][: (b - a) * columns].view(b - a, columns)

    def _similarities(self, a: int, b: int) -> list[Tensor]:
        return [
            torch.mm(rows[a:b], columns[a:].T, out=self._view(buffer, a, b))
            for buffer, (rows, columns) in enumerate(self._pairs)
        ]

    def _exp(self, similarities: Tensor) -> Tensor:
        return (similarities.add_(self._shift) if self._shift else similarities).exp_()

    def exponentials(self, a: int, b: int) -> tuple[Tensor, Tensor]:
        """Of student and teacher, (b - a, R - a)."""
        s, t = self._similarities(a, b)
        return self._exp(s), self._exp(t)

    def gap_and_exponentials(self, a: int, b: int) -> tuple[Tensor, Tensor, Tensor]:
        """Teacher's minus student's similarities, and the exponentials of both."""
        s, t = self._similarities(a, b)
        gap = torch.sub(t, s, out=self._view(2, a, b))
        return gap, self._exp(s), self._exp(t)

    def both_ways(self, scale: Tensor, spans: Sequence[tuple[int, int]], image: int, a: int, b: int) -> Tensor:
        """Factor of each similarity: its factor in the row's distribution, plus that in the column's."""
        factor = self._view(3, a, b)
        for other, (start, end) in enumerate(spans[image:], start=image):
            columns = slice(max(start, a), end)
            part = factor[:, columns.start - a : columns.stop - a]
            torch.add(scale[a:b, other, None], scale[columns, image], out=part)
        return factor


class _ReferenceRelations(_SavedGradient):
    @staticmethod
    def forward(ctx: Any, rows_s: Tensor, rows_t: Tensor, references: Tensor, temperature: float) -> Tensor:
        columns = references / temperature
        gradient = torch.empty_like(rows_s)
        value = rows_s.new_zeros(())
        step = _rows_per_block(rows_s, columns=len(references))
        buffers = [rows_s.new_empty(min(step, len(rows_s)), len(references)) for _ in range(3)]
        for a in to_compute(range(0, len(rows_s), step)):
            block = slice(a, min(a + step, len(rows_s)))
            s, t, gap = (buffer[: block.stop - a] for buffer in buffers)
            for similarities, rows in ((s, rows_s), (t, rows_t)):
                torch.mm(rows[block], columns.T, out=similarities)
                if temperature < LEAST_FLOAT32:
                    similarities.sub_(similarities.amax(dim=1, keepdim=True))
            torch.sub(t, s, out=gap)
            sum_s, sum_t = (x.exp_().sum(dim=1, keepdim=True) for x in (s, t))
            t *= 1 / sum_t
            value += torch.dot(gap.flatten(), t.flatten()) + (sum_s / sum_t).log().sum()
            t.addcmul_(s, 1 / sum_s, value=-1)
            torch.mm(t, columns, out=gradient[block])
        ctx.save_for_backward(gradient.div_(-len(rows_s)))
        return value / len(rows_s)


def _tiles(rows: Tensor, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(image, first row, end) of blocks of rows; each block is of one image."""
    step = _rows_per_block(rows, columns=len(rows))
    return [(image, a, min(a + step, end)) for image, (start, end) in enumerate(spans) for a in range(start, end, step)]


def _rows_per_block(rows: Tensor, *, columns: int) -> int:
    """Number of rows whose similarities with so many columns fit the budget."""
    return max(MIN_ROWS, BUDGET["cpu"] // (BUFFERS * columns * rows.element_size()))
