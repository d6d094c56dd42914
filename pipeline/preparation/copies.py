"""Find images that look the same: copies that were encoded again, resized or made brighter.

Two images are copies if the correlation of their grey 32x32 thumbnails is at least 0.9992. On CamVid it is at least
0.9996 for copies by JPEG (quality 15 to 95), by WebP, and at half and double size; it is at most 0.9978 for frames of a
drive that are 1/15 second apart. Source of these figures: ``benchmarks/copies.py``.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.frames import Array

SIDE = 32
ALIKE = 0.9992
FLAT = 1.0  # minimum standard deviation of a thumbnail, in grey levels; below it the thumbnail counts as flat
#: Side of the block of DCT coefficients. They decide which thumbnails are compared pixel by pixel.
COARSE = 8
#: Coefficients (row, column) that give the cell of a thumbnail: the largest ones of photographs.
CELL = ((0, 1), (1, 0), (1, 1), (0, 2))
#: Steps from a cell to itself and to the cells beside it, (81, 4).
STEPS = np.array(list(itertools.product((-1, 0, 1), repeat=len(CELL))))
AT_ONCE = 256  # thumbnails that are compared pixel by pixel at once
MARGIN = 1e-4  # added to the largest distance of copies: coefficients are float32, and rounding must hide no copy


class Match(NamedTuple):
    """The image that another one is like, and the correlation of their thumbnails."""

    name: str
    correlation: float


def thumbnail(frame: Array) -> Array:
    """Grey thumbnail (1024,) uint8 of a frame (H, W, 3) BGR."""
    small = cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8).ravel()


def is_flat(thumb: Array) -> bool:
    """Whether a thumbnail (1024,) has no contrast; such a thumbnail is like no image."""
    return bool(thumb.std() < FLAT)


def normalised(thumbnails: Sequence[Array]) -> npt.NDArray[np.float32]:
    """Thumbnails (n, 1024) with mean 0 and norm 1: the dot product of two is their correlation. A flat thumbnail is all
    zeros, so it matches no image.
    """
    grey = np.stack(thumbnails).astype(np.float32)
    centred = grey - grey.mean(1, dtype=np.float64, keepdims=True).astype(np.float32)
    centred[centred.std(1) < FLAT] = 0
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1), np.float32)


class Index:
    """Finds the images, of those that were added, that look the same as another image.

    A normalised thumbnail is a point on a sphere: if the correlation of two is ``alike`` or more, their distance is at
    most ``sqrt(2 - 2 * alike)``. An orthonormal transform (DCT) does not change distances, so the distance of any part
    of their coefficients is not larger. Four coefficients are the cell of a thumbnail, and the sides of a cell have
    this length. Only thumbnails in the same cell and in the cells beside it are compared: first 64 coefficients, then
    all pixels. So no copy is missed. A search takes 0.4 ms among 10,000 images and 4 ms among 100,000 (one core; pairs
    of CamVid frames, blended). Pixels are compared in whole numbers: all CPUs find the same copies.

    Memory: 1.3 KiB per image.

    Args:
        alike: lowest correlation of two thumbnails that look the same.
    """

    def __init__(self, alike: float = ALIKE) -> None:
        self.alike = alike
        self._radius = math.sqrt(2 - 2 * alike) + MARGIN
        self._names: list[str] = []
        self._thumbnails = np.zeros((AT_ONCE, SIDE * SIDE), np.uint8)
        self._coarse = np.zeros((AT_ONCE, COARSE * COARSE), np.float32)
        self._cells: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)

    def add(self, name: str, thumb: Array) -> None:
        """Add an image by its thumbnail (1024,) uint8; a flat one is ignored."""
        if is_flat(thumb):
            return
        number = len(self._names)
        if number == len(self._thumbnails):
            self._thumbnails = np.concatenate([self._thumbnails, np.zeros_like(self._thumbnails)])
            self._coarse = np.concatenate([self._coarse, np.zeros_like(self._coarse)])
        coarse, cell = self._place(thumb)
        self._names.append(name)
        self._thumbnails[number], self._coarse[number] = thumb, coarse
        self._cells[cell].append(number)

    def like(self, thumb: Array) -> Match | None:
        """An image that looks the same as a thumbnail (1024,) uint8; None: there is none. Of several images it is the
        most alike one, unless hundreds are near."""
        if is_flat(thumb):
            return None
        coarse, cell = self._place(thumb)
        near: list[int] = []
        for beside in map(tuple, (STEPS + cell).tolist()):
            near += self._cells.get(beside, ())
        distances = np.square(self._coarse[near] - coarse).sum(1)
        order = np.argsort(distances, kind="stable")
        numbers = np.array(near, np.int64)[order[distances[order] <= self._radius**2]]
        for first in range(0, len(numbers), AT_ONCE):
            block = numbers[first : first + AT_ONCE]
            correlations = correlation(self._thumbnails[block], thumb)
            best = int(correlations.argmax())
            if correlations[best] >= self.alike:
                return Match(self._names[block[best]], float(correlations[best]))
        return None

    def _place(self, thumb: Array) -> tuple[npt.NDArray[np.float32], tuple[int, ...]]:
        """The first coefficients (64,) of a thumbnail, and its cell."""
        square = normalised([thumb]).reshape(SIDE, SIDE)
        coarse = np.asarray(cv2.dct(square)[:COARSE, :COARSE], np.float32)
        return coarse.ravel(), tuple(math.floor(coarse[place] / self._radius) for place in CELL)


def correlation(thumbnails: Array, thumb: Array) -> npt.NDArray[np.float64]:
    """Correlation (n,) of thumbnails (n, 1024) uint8 with another one (1024,); none is flat. Sums are exact."""
    ours, other = thumbnails.astype(np.int64), thumb.astype(np.int64)
    count, sums, total = thumb.size, ours.sum(1), other.sum()
    covariance = count * (ours @ other) - sums * total
    variances = count * np.square(ours).sum(1) - np.square(sums)
    return np.asarray(covariance / np.sqrt(variances * float(count * (other @ other) - total * total)), np.float64)


def copies(thumbnails: Mapping[str, Sequence[tuple[str, Array]]]) -> Iterator[tuple[str, str]]:
    """Pairs (copy, original) of images in different splits that look the same, each as ``split/name``.

    Args:
        thumbnails: split -> name and thumbnail of each image. Each image is compared with the images of earlier splits.
    """
    earlier = Index()
    for split, images in thumbnails.items():
        for name, each in images:
            if original := earlier.like(each):
                yield f"{split}/{name}", original.name
        for name, each in images:
            earlier.add(f"{split}/{name}", each)
