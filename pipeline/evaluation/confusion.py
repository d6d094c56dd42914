"""mIoU from one confusion matrix over a whole split (not a mean of images, as torchmetrics' MeanIoU computes)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.frames import Array

BYTE = 256


class ConfusionMatrix:
    """Counts of (true class, predicted class) over all pixels that are not ignored.

    Args:
        num_classes: K.
        ignore_index: label id whose pixels are dropped.

    Example:
        >>> matrix = ConfusionMatrix(num_classes=2, ignore_index=255)
        >>> matrix.add(np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 1, 1, 0]], np.uint8)).tolist()
        [[1, 1], [0, 1]]
        >>> matrix.iou().tolist()
        [0.5, 0.5]
    """

    def __init__(self, *, num_classes: int, ignore_index: int) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts: npt.NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)  # [true, predicted]

    @classmethod
    def of(cls, counts: npt.NDArray[np.int64], *, ignore_index: int) -> ConfusionMatrix:
        """A matrix from counts (K, K) [true, predicted], e.g. the sum over processes that each saw a part of a split.

        Raises:
            UserError: the counts are not square, not integer, or negative.
        """
        counts = np.asarray(counts)
        square = counts.ndim == 2 and counts.shape[0] == counts.shape[1]
        if not square or counts.dtype.kind not in "iu" or counts.min(initial=0) < 0:
            raise UserError(
                f"counts of a confusion matrix: got {counts.dtype} {counts.shape}; needs integers >= 0 (K, K)"
            )
        matrix = cls(num_classes=counts.shape[0], ignore_index=ignore_index)
        matrix.counts = counts.astype(np.int64)
        return matrix

    def add(self, label: Array, prediction: Array) -> npt.NDArray[np.int64]:
        """Count one image: label map and prediction, both (H, W) uint8.

        Returns:
            the counts of this image alone, (K, K) [true, predicted].

        Raises:
            UserError: shapes differ, or an id is neither a class nor ignored.
        """
        if label.shape != prediction.shape:
            raise UserError(
                f"label is {label.shape}, prediction {prediction.shape}; resize the prediction to the label"
            )
        assert label.dtype == prediction.dtype == np.uint8, (label.dtype, prediction.dtype)
        joint = label.astype(np.uint16) << 8 | prediction  # three times as fast as selecting the counted pixels first
        return self.add_pairs(np.bincount(joint.ravel(), minlength=BYTE**2).reshape(BYTE, BYTE))

    def add_pairs(self, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Count pixels by their two ids.

        Args:
            pairs: (256, 256), number of pixels by [label id, predicted id]; the row of the ignored id is set to 0.

        Returns:
            the counts of these pixels, (K, K) [true, predicted].

        Raises:
            UserError: an id is neither a class nor ignored.
        """
        pairs[self.ignore_index] = 0
        classes = slice(self.num_classes)
        counts = pairs[classes, classes]
        if counts.sum() < pairs.sum():
            worst = int(max(ids.max() for ids in pairs.nonzero()))
            raise UserError(f"id {worst} among labels or predictions; allowed: 0..{self.num_classes - 1}")
        self.counts += counts
        return counts

    def iou(self) -> npt.NDArray[np.float64]:
        """IoU of each class in 0..1; NaN for a class that does not occur in the labels."""
        hits = np.diag(self.counts).astype(np.float64)
        labelled, predicted = self.counts.sum(axis=1), self.counts.sum(axis=0)
        union = labelled + predicted - hits
        return np.where(labelled > 0, hits / np.maximum(union, 1), np.nan)

    def summary(self) -> dict[str, Any]:
        """``miou`` and ``per_class_iou`` in percent; null for classes absent from the labels; mIoU ignores these."""
        iou = self.iou()
        present = iou[~np.isnan(iou)]
        return {
            "miou": round(100 * float(present.mean()), 4) if present.size else None,
            "per_class_iou": [None if np.isnan(value) else round(100 * float(value), 4) for value in iou],
        }
