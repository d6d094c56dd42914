"""How sure the network is of its labels: sums and means per class, and a check that an engine gives confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.runtimes import NO_CONFIDENCE, Engine
from pipeline.video.pixels import Counts

#: The value of confidence in uint8 that means a probability of 1.
FULL = 255
#: Digits after the point of a mean.
_DIGITS = 4
_VALUES = np.arange(256, dtype=np.float64)


def check_gives(engines: Sequence[Engine], *, options: Mapping[str, bool]) -> None:
    """Raise UserError if an option needs confidence and the engine gives none.

    Args:
        engines: copies of one engine.
        options: name of each option that needs confidence -> whether it is set.
    """
    used = [name for name, is_set in options.items() if is_set]
    if used and not engines[0].gives_confidence:
        raise UserError(f"{' and '.join(used)}: {NO_CONFIDENCE}")


def sum_by_id(label_map: Array, confidence: Array) -> Counts:
    """Sum of the confidence of all pixels of each id, (256,).

    Args:
        label_map: (h, w) train ids.
        confidence: (h, w) of the same pixels, 0 to 255.
    """
    # float32: exact up to 2**24 pixels of one id and value; eight times faster than numpy.bincount with weights
    pairs = cv2.calcHist([label_map, confidence], [0, 1], None, [256, 256], [0, 256, 0, 256])
    return np.rint(np.asarray(pairs, np.float64) @ _VALUES).astype(np.int64)


def mean_of(sums: Counts, pixels: Counts) -> float | None:
    """Mean confidence of all pixels, 0 to 1; None without pixels.

    Args:
        sums: (256,) see :func:`sum_by_id`.
        pixels: (256,) how many pixels have each id.
    """
    count = int(pixels.sum())
    return int(sums.sum()) / (FULL * count) if count else None


def means_by_class(sums: Counts, pixels: Counts, labels: LabelSpec) -> dict[str, float]:
    """Mean confidence of the pixels of each class that occurs, 0 to 1, by the name of the class.

    Args:
        sums, pixels: see :func:`mean_of`.
    """
    return {
        name: int(sums[index]) / (FULL * int(pixels[index])) for index, name in enumerate(labels.names) if pixels[index]
    }


def confidence_facts(sums: Counts, pixels: Counts, labels: LabelSpec) -> dict[str, Any]:
    """``{"confidence": {class: 0..1}, "mean_confidence": 0..1}`` for JSON, rounded; see :func:`means_by_class`."""
    mean = mean_of(sums, pixels)
    return {
        "confidence": {name: round(value, _DIGITS) for name, value in means_by_class(sums, pixels, labels).items()},
        "mean_confidence": None if mean is None else round(mean, _DIGITS),
    }
