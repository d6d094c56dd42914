"""Objects in label maps, and how many of them a network finds. IoU over pixels hides lost small objects.

An object is a connected component of one class (8 neighbours) in the ground truth. Ignored pixels belong to no object
and separate objects; the size of an object at the border or beside ignored pixels is that of its labelled part. It is
found if at least half of its pixels get its class.

Sizes are shares of the image, so that they do not depend on the resolution: COCO's 32 x 32 and 96 x 96 pixels in its
usual image of 480 x 640. A component smaller than Cityscapes' smallest region (100 pixels of 1024 x 2048) or than ten
pixels does not count: it is a fragment of an object, or the edge of another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.frames import Array

SIZES = ("small", "medium", "large")
#: Share of the image from which an object is medium, and large.
BOUNDS = (32 * 32 / (480 * 640), 96 * 96 / (480 * 640))
#: Share of the image, and number of pixels (ours), below which a component does not count.
SPECK, FEWEST = 100 / (1024 * 2048), 10

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Components:
    """The connected components of a label map, as runs: adjacent pixels of one class in a row.

    Attributes:
        starts: first pixel of each run, as an index of the flattened map.
        numbers: component of each run.
        classes, areas: of each component; an area is a number of pixels.
    """

    starts: npt.NDArray[np.intp]
    numbers: npt.NDArray[np.intp]
    classes: Array
    areas: Ints

    @classmethod
    def of(cls, label: Array) -> Components:
        """All components of a label map (H, W) uint8, of any id; about ten times as fast as OpenCV once per
        class, for a map with many classes."""
        height, width = label.shape
        begins = np.ones(label.shape, np.bool_)
        np.not_equal(label[:, 1:], label[:, :-1], out=begins[:, 1:])
        starts = np.flatnonzero(begins)
        stops = np.append(starts[1:], label.size)
        ids = label.ravel()[starts]
        upper, lower = _touching(starts, stops, height=height, width=width)
        same = ids[upper] == ids[lower]
        roots, numbers = np.unique(_joined(len(starts), upper[same], lower[same]), return_inverse=True)
        areas = np.bincount(numbers, weights=stops - starts).astype(np.int64)
        return cls(starts, numbers, ids[roots], areas)

    def hits(self, right: npt.NDArray[np.bool_]) -> Ints:
        """Number of pixels of each component that are ``right`` (H, W)."""
        of_runs = np.add.reduceat(right.ravel(), self.starts, dtype=np.int64)
        return np.bincount(self.numbers, weights=of_runs, minlength=len(self.areas)).astype(np.int64)


def _touching(
    starts: npt.NDArray[np.intp], stops: npt.NDArray[np.intp], *, height: int, width: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Pairs of runs in adjacent rows, upper and lower, that touch along an edge or at a corner."""
    below = (starts // width + 1) * width  # first pixel of the next row
    first = np.searchsorted(starts, np.maximum(starts + width - 1, below), side="right") - 1
    last = np.searchsorted(starts, np.minimum(stops + width, below + width - 1), side="right") - 1
    counts = np.where(below < height * width, last - first + 1, 0)
    upper = np.repeat(np.arange(len(starts)), counts)
    within = np.arange(len(upper)) - np.repeat(np.cumsum(counts) - counts, counts)
    return upper, first[upper] + within


def _joined(count: int, one: npt.NDArray[np.intp], other: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """For each of ``count`` numbers, the smallest number that it is connected with by the pairs (one, other)."""
    parents = np.arange(count)
    while True:
        left, right = parents[one], parents[other]
        if (left == right).all():
            return parents
        np.minimum.at(parents, np.maximum(left, right), np.minimum(left, right))
        while (parents != parents[parents]).any():
            parents = parents[parents]


class ObjectCounts:
    """Number of objects of each class and size: all, and those found.

    Args:
        num_classes: K; components of other ids do not count.
    """

    def __init__(self, *, num_classes: int) -> None:
        self.total: Ints = np.zeros((num_classes, len(SIZES)), np.int64)
        self.found: Ints = np.zeros((num_classes, len(SIZES)), np.int64)

    def add(self, label: Array, prediction: Array) -> None:
        """Count one image: label map and prediction, both (H, W) uint8."""
        components = Components.of(label)
        hits = components.hits(label == prediction)
        shares = components.areas / label.size
        counted = (components.classes < len(self.total)) & (components.areas >= max(SPECK * label.size, FEWEST))
        sizes, found = np.digitize(shares, BOUNDS), 2 * hits >= components.areas
        np.add.at(self.total, (components.classes[counted], sizes[counted]), 1)
        np.add.at(self.found, (components.classes[counted & found], sizes[counted & found]), 1)

    def recall(self) -> list[list[float | None]]:
        """Percent of the objects found, by class and size; None where there are no objects."""
        pairs = np.stack([self.found, self.total], axis=-1).tolist()
        return [[_percent(found, total) for found, total in row] for row in pairs]


def facts(reference: ObjectCounts, int8: ObjectCounts) -> dict[str, Any]:
    """For a results file: lists by class, each of the three sizes; and all small objects together."""
    small = {
        "count": int(reference.total[:, 0].sum()),
        "float": _percent(reference.found[:, 0].sum(), reference.total[:, 0].sum()),
        "int8": _percent(int8.found[:, 0].sum(), int8.total[:, 0].sum()),
    }
    return {
        "below": [round(bound, 6) for bound in BOUNDS],
        "counts": reference.total.tolist(),
        "recall_float": reference.recall(),
        "recall_int8": int8.recall(),
        "small": small,
    }


def _percent(found: int, total: int) -> float | None:
    return round(100 * int(found) / int(total), 4) if total else None
