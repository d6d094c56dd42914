"""The rare classes: quantisation hurts them first, and mIoU hides this loss.

A share is a class's part of all labelled pixels of a split, 0..1; ignored pixels are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.labels import LabelSpec
from pipeline.prepared import Split

#: A class below this share of the labelled pixels is rare.
RARE_BELOW = 0.02
#: At least this number of classes is listed.
AT_LEAST = 3


def shares(split: Split, labels: LabelSpec) -> dict[str, float]:
    """Share of every class in the ground truth of ``split``."""
    counts = np.zeros(256, np.int64)
    for index in range(len(split)):
        counts += np.bincount(split.label(index).ravel(), minlength=256)
    known = counts[: labels.num_classes]
    total = max(int(known.sum()), 1)
    return {name: int(count) / total for name, count in zip(labels.names, known, strict=True)}


def rare(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    """The rare classes that occur, the rarest first, with their shares.

    Example:
        >>> rare({"road": 0.6, "car": 0.35, "pole": 0.01, "sign": 0.004, "bicycle": 0.0, "sky": 0.036})
        [('sign', 0.004), ('pole', 0.01), ('sky', 0.036)]
    """
    rising = sorted(((name, share) for name, share in shares.items() if share > 0), key=lambda item: (item[1], item[0]))
    below = sum(share < RARE_BELOW for _, share in rising)
    return rising[: max(below, AT_LEAST)]
