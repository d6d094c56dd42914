"""Label maps that do not flicker: the earlier labels are moved with the picture.

Every pixel remembers a label and a confidence. For each new frame

1. dense optical flow (Kroeger et al. 2016, OpenCV's DIS) gives the place of each pixel in the frame before, and the
   memory is read there;
2. the memory counts less, down to zero, the more the two lumas differ: an object was covered or came into view, or the
   flow is wrong;
3. a frame with the same label raises the confidence of the label by 1, up to a limit. A frame with another label
   lowers it by 2, and a label with a confidence below 2 is replaced (the majority vote of Boyer and Moore 1991, with
   forgetting).

Without the first two steps smoothing lowers the accuracy where something moves; with them it raises the accuracy.
Figures and alternatives: docs/results/smoothing.md.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.frames import Array, resize_frame
from pipeline.labels import IGNORE_INDEX
from pipeline.video.drawing.picture import Picture

#: Frames that replace a label of full confidence; chosen on street scenes, see docs/results/smoothing.md.
FRAMES = 5
LONGEST = 60
#: Of luma, 0 to 255; the best of 8 to 48 on streets.
TOLERANCE = 20
#: A larger share of pixels whose memory counts zero is a cut. Measured: at most 0.22 in drives of 15 fps,
#: 0.28 with every second frame, 0.45 with every fourth; at least 0.43 between two drives, in 19 of 20 above 0.54.
CUT = 0.4
#: Flow is estimated at 64 to 127 rows, or columns where they are fewer; more costs more and gains little.
FLOW_SIDE = 64
#: OpenCV's DIS fails if a side has fewer than 12 pixels.
FLOW_LEAST = 16
_AGREES = np.uint8(128)  # a bit above every confidence


class Smoother:
    """Smooths the label maps of one moving picture, frame by frame, from the past only.

    Each source needs its own smoother, which one thread uses at a time. It remembers the last frame: 11 bytes per pixel
    of the label map.

    Args:
        frames: number of frames in a row, 2 to 60, with another label after which a label of full confidence is
            replaced. A label that was seen less often is replaced sooner, and one that was seen once immediately.
        tolerance: difference of luma from which on memory counts zero; up to a third of it, memory counts fully.
        ignore_index: pixels with this id stay as they are and are not remembered.

    Attributes:
        cuts: how often the memory was dropped because the picture changed as a whole.

    Raises:
        UserError: ``frames`` is out of range.
    """

    def __init__(self, *, frames: int = FRAMES, tolerance: int = TOLERANCE, ignore_index: int = IGNORE_INDEX) -> None:
        if not 2 <= frames <= LONGEST:
            raise UserError(f"smoothing over {frames} frames; allowed: 2 to {LONGEST}; {FRAMES} is the default")
        self.cuts = 0
        self._tolerance = tolerance
        self._ignored = ignore_index
        limit = 2 * (frames - 1)
        self._settled, self._replaced = _tables(limit)
        share = np.clip(1.5 * (1 - np.arange(256) / tolerance), 0, 1)
        self._trust = np.asarray(limit * share, np.uint8)  # by difference of luma: the highest confidence
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)  # type: ignore[attr-defined]
        self._flow.setFinestScale(0)
        self._memory: Array | None = None  # (h, w, 3): label, confidence, luma
        self._small: Array = np.zeros((0, 0), np.uint8)  # luma at the size of the flow
        self._grid: npt.NDArray[np.float32] = np.zeros((0, 0, 2), np.float32)  # column and row of each pixel

    def reset(self) -> None:
        """Clear the memory, as at the start of another video."""
        self._memory = None

    def smooth(self, label_map: Array, picture: Picture) -> Array:
        """The next label map, smoothed.

        Args:
            label_map: (h, w) uint8 train ids. If its size differs from that of the last map, the memory is dropped.
            picture: the part of the frame that the labels show, at any size; best at that of the label map.

        Returns:
            (h, w) train ids, each of them from this or an earlier map; the argument is left as it is.
        """
        size = (label_map.shape[0], label_map.shape[1])
        luma = _luma(picture, size)
        small, before = _flow_size(luma), self._small
        self._small = small
        if self._memory is None or self._memory.shape[:2] != size:
            return self._begin(label_map, luma)
        motion = _label_size(self._flow.calc(small, before, None), size)
        # beyond the border of the picture all three are 0: nothing is settled there
        places = self._grid + motion
        moved = cv2.remap(self._memory, places, None, cv2.INTER_NEAREST)  # type: ignore[call-overload] # two maps in one
        labels, confidence, was = cv2.split(moved)
        difference = cv2.absdiff(luma, was)
        if np.count_nonzero(difference >= self._tolerance) > CUT * label_map.size:
            self.cuts += 1
            return self._begin(label_map, luma)
        kept = cv2.min(confidence, cv2.LUT(difference, self._trust))
        state = np.asarray(kept | (labels == label_map) * _AGREES, np.uint8)
        replaced = cv2.LUT(state, self._replaced).astype(bool) | (label_map == self._ignored)
        smoothed = np.where(replaced, label_map, labels).astype(np.uint8, copy=False)
        self._remember(smoothed, np.asarray(cv2.LUT(state, self._settled), np.uint8), luma)
        return smoothed

    def _begin(self, label_map: Array, luma: Array) -> Array:
        height, width = label_map.shape
        if self._grid.shape[:2] != (height, width):
            columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
            self._grid = np.dstack([columns, rows])
        self._remember(label_map, np.ones_like(label_map), luma)
        return label_map.copy()

    def _remember(self, labels: Array, confidence: Array, luma: Array) -> None:
        known = labels != self._ignored
        self._memory = np.asarray(cv2.merge([labels, confidence * known, luma]), np.uint8)


def _tables(limit: int) -> tuple[Array, Array]:
    """Tables by confidence (0 to ``limit``), plus ``_AGREES`` for equal labels: the next confidence; 255 to replace."""
    settled, replaced = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
    for confidence in range(limit + 1):
        settled[_AGREES + confidence] = min(confidence + 1, limit)
        settled[confidence] = confidence - 2 if confidence >= 2 else 1
        replaced[confidence] = 0 if confidence >= 2 else 255
    return settled, replaced


def _luma(picture: Picture, size: tuple[int, int]) -> Array:
    """(h, w) brightness of the picture."""
    plane = resize_frame(picture.planes[0], size)
    return plane if picture.yuv else np.asarray(cv2.cvtColor(plane, cv2.COLOR_BGR2GRAY), np.uint8)


def _flow_size(luma: Array) -> Array:
    """Luma shrunk by a power of two for the flow; tiny ones are grown."""
    height, width = luma.shape
    shrink = 1
    while min(height, width) >= 2 * FLOW_SIDE * shrink:
        shrink *= 2
    return resize_frame(luma, (max(height // shrink, FLOW_LEAST), max(width // shrink, FLOW_LEAST)))


def _label_size(flow: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Flow (h', w', 2) in its own pixels as flow (h, w, 2) in pixels of the label map."""
    height, width = flow.shape[:2]
    if (height, width) == size:
        return flow
    scaled = flow * np.array([size[1] / width, size[0] / height], np.float32)
    return np.asarray(cv2.resize(scaled, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.float32)
