"""Image operations whose results have the same bytes on every x86 CPU.

The float kernels of OpenCV and numpy round differently with SSE, AVX2 and AVX-512 (fused multiply-add, different
polynomials, a different order of sums), so equal arguments would give different frames on different machines. The
functions in this file use single additions and multiplications in a fixed order; IEEE 754 defines their results.
Functions such as ``exp`` are computed in float64 and rounded to float32, which removes the last bit, the only one that
may differ. OpenCV's 8-bit integer operations and its drawing functions are exact, and are used directly.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from pipeline.datasets._streets.world import Floats
from pipeline.frames import Array


def exp(values: Floats) -> Floats:
    """e to the power of ``values``, float32."""
    return np.exp(values.astype(np.float64)).astype(np.float32)


def power(values: Floats, exponent: float) -> Floats:
    """``values`` (each at least 0) to the power of ``exponent``, float32."""
    return (values.astype(np.float64) ** exponent).astype(np.float32)


def sample_tile(tile: Floats, x: Floats, y: Floats) -> Floats:
    """Bilinear samples, float32, of a seamless tile (n, n) float32 at ``x`` and ``y``; n is a power of two."""
    last = len(tile) - 1
    left, top = np.floor(x), np.floor(y)
    right_share, lower_share = x - left, y - top
    columns, rows = left.astype(np.int32) & last, top.astype(np.int32) & last
    next_columns, next_rows = (columns + 1) & last, (rows + 1) & last
    upper = tile[rows, columns] * (1 - right_share) + tile[rows, next_columns] * right_share
    lower = tile[next_rows, columns] * (1 - right_share) + tile[next_rows, next_columns] * right_share
    return np.asarray(upper * (1 - lower_share) + lower * lower_share, np.float32)


def enlarge(image: Floats, size: tuple[int, int]) -> Floats:
    """Bilinear resize of an image (h, w, ...) to ``size`` (height, width), with aligned pixel centres, float32."""
    for axis, length in enumerate(size):
        before, after, share = _neighbours(image.shape[axis], length)
        share = share.reshape(-1, *[1] * (image.ndim - 1 - axis))
        image = np.take(image, before, axis) * (1 - share) + np.take(image, after, axis) * share
    return np.asarray(image, np.float32)


def _neighbours(length: int, wanted: int) -> tuple[np.ndarray, np.ndarray, Floats]:
    """For each of ``wanted`` positions: the pixel before it, the pixel after it, and the weight of the latter."""
    place = np.clip((np.arange(wanted) + 0.5) * (length / wanted) - 0.5, 0, length - 1)
    before = np.floor(place).astype(np.intp)
    return before, np.minimum(before + 1, length - 1), (place - before).astype(np.float32)


def enlarge_bytes(image: Array, size: tuple[int, int]) -> Array:
    """Bilinear resize of an 8-bit image to ``size`` (height, width), with OpenCV's fixed-point arithmetic."""
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR_EXACT), np.uint8)


def halve(image: Floats) -> Floats:
    """The mean of each 2x2 block of an image with even height and width, float32."""
    rows = image[::2] + image[1::2]
    return np.asarray((rows[:, ::2] + rows[:, 1::2]) * np.float32(0.25), np.float32)


def blur(image: Floats, sigma: float) -> Floats:
    """Gaussian blur of an image (h, w, ...), float32; mirrored at the border."""
    radius = min(math.ceil(3 * sigma), min(image.shape[:2]) - 1)
    bell = np.array([math.exp(-((distance / sigma) ** 2) / 2) for distance in range(radius + 1)])
    weights = (bell / (bell[0] + 2 * bell[1:].sum())).astype(np.float32)
    for axis in (0, 1):
        length = image.shape[axis]
        borders = [(radius, radius) if a == axis else (0, 0) for a in range(image.ndim)]
        padded = np.moveaxis(np.pad(image, borders, mode="reflect"), axis, 0)
        total = padded[radius : radius + length] * weights[0]
        for distance in range(1, radius + 1):
            before, after = radius - distance, radius + distance
            total += (padded[before : before + length] + padded[after : after + length]) * weights[distance]
        image = np.moveaxis(total, 0, axis)
    return np.asarray(image, np.float32)


def upsample_tile(grid: Floats, factor: int) -> Floats:
    """Bicubic enlargement of a seamless grid (n, n) by an integer factor, float64."""
    fine = grid.astype(np.float64)
    place = (np.arange(len(grid) * factor) + 0.5) / factor - 0.5
    base = np.floor(place).astype(np.intp)
    share = place - base
    kernel = (
        _cubic(1 + share),
        _cubic(share),
        _cubic(1 - share),
        _cubic(2 - share),
    )
    for axis in (0, 1):
        shape = (-1, 1) if axis == 0 else (1, -1)
        fine = sum(  # type: ignore[assignment]
            np.take(fine, base + tap - 1, axis, mode="wrap") * weight.reshape(shape)
            for tap, weight in enumerate(kernel)
        )
    return fine


def _cubic(distance: Floats) -> Floats:
    """Keys' interpolation kernel with a = -0.75, as in OpenCV's INTER_CUBIC, for distances in 0..2."""
    a = -0.75
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, far)
