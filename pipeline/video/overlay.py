"""Frames tinted with the colours of their classes."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array, resize_label_map
from pipeline.labels import LabelSpec
from pipeline.video.legend import draw_legend


class Overlay:
    """Blends class colours into frames.

    Colours are looked up at label-map size and enlarged afterwards: at 1080p that is 1 ms a frame, not 25.

    Args:
        labels: class names and colours.
        alpha: share of the colour in the picture, 0 (the frame alone) to 1 (the colours alone).
        legend: write the names of the classes that occur into the picture.
    """

    def __init__(self, labels: LabelSpec, *, alpha: float = 0.5, legend: bool = False) -> None:
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha is {alpha}; allowed: 0 (the frame alone) to 1 (the colours alone)")
        self.labels = labels
        self.alpha = alpha
        self.legend = legend
        self._colours = labels.lookup_bgr()  # (256, 1, 3)
        self._tinted = np.zeros(256, np.uint8)
        self._tinted[: labels.num_classes] = 255

    def draw(self, frame: Array, label_map: Array) -> Array:
        """A tinted copy of ``frame``; pixels of ignored and unknown ids stay as they are.

        Args:
            frame: (H, W, 3) BGR; not changed.
            label_map: (h, w) train ids, of any size.
        """
        height, width = frame.shape[:2]
        colours = cv2.LUT(cv2.cvtColor(label_map, cv2.COLOR_GRAY2BGR), self._colours)  # (h, w, 3)
        # the interpolation of resize_label_map: colours and masks agree in every pixel
        colours = cv2.resize(colours, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)  # (H, W, 3)
        picture = np.asarray(cv2.addWeighted(frame, 1 - self.alpha, colours, self.alpha, 0), np.uint8)
        tinted = np.asarray(cv2.LUT(label_map, self._tinted), np.uint8)  # (h, w)
        if not tinted.all():
            bare = resize_label_map(tinted, (height, width)) == 0
            picture[bare] = frame[bare]
        if self.legend:
            draw_legend(picture, self.labels, np.flatnonzero(count_ids(label_map)[: self.labels.num_classes]))
        return picture


def count_ids(label_map: Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Pixels of every id 0..255 in a label map (h, w); returns (256,). Seven times faster than numpy.bincount."""
    counts = cv2.calcHist([label_map], [0], None, [256], [0, 256])  # float32: exact up to 2**24 pixels of one id
    return np.asarray(counts, np.float64).ravel().astype(np.int64)
