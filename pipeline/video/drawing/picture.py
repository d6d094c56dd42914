"""A decoded picture: BGR, or the planes of YUV 4:2:0, the usual format of video.

Frames of video are not converted to BGR. Only the input of the engine is converted, at its size, and class colours are
blended into the planes. At 1280x720 this saves two conversions per frame, 3 to 5 ms of a core.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.frames import Array, resize_frame

#: Red and blue share of luma by FFmpeg's number of the matrix (ITU-T H.273, table 4).
_LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087)}
_LUMA |= {9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
_UNSPECIFIED = 2
SQUARE = Fraction(1)  # pixels
BT601, BT709 = 6, 1
_SPARSE = 3.5  # from this ratio on, an average of two by two points would skip pixels


class Yuv(NamedTuple):
    """The meaning of YUV 4:2:0 planes; numbers are those of FFmpeg and ITU-T H.273.

    Attributes:
        matrix: YUV to RGB; 2 (unknown) is taken as BT.601, as in FFmpeg and OpenCV.
        full_range: luma in 0..255, not 16..235.
        primaries, transfer: passed on, not used.
    """

    matrix: int = _UNSPECIFIED
    full_range: bool = False
    primaries: int = _UNSPECIFIED
    transfer: int = _UNSPECIFIED

    @lru_cache(maxsize=16)  # noqa: B019 - four small values
    def from_bgr(self) -> npt.NDArray[np.float64]:
        """(3, 4): BGR in 0..255 and a 1 to Y, U, V in 0..255."""
        red, blue = _LUMA.get(self.matrix, _LUMA[BT601])
        luma = np.array([blue, 1 - red - blue, red])
        matrix = np.stack(
            [luma, (np.array([1, 0, 0]) - luma) / (2 - 2 * blue), (np.array([0, 0, 1]) - luma) / (2 - 2 * red)]
        )
        scale, offset = (
            ([1, 1, 1], [0, 128, 128]) if self.full_range else ([219 / 255, 224 / 255, 224 / 255], [16, 128, 128])
        )
        return np.column_stack([matrix * np.array(scale)[:, None], offset])

    @lru_cache(maxsize=16)  # noqa: B019
    def to_bgr(self) -> npt.NDArray[np.float64]:
        """(3, 4): Y, U, V in 0..255 and a 1 to BGR in 0..255."""
        there = self.from_bgr()
        back = np.linalg.inv(there[:, :3])
        return np.column_stack([back, -back @ there[:, 3]])


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Picture:
    """Planes that are never changed, and their meaning.

    Attributes:
        planes: (H, W, 3) BGR; or Y (H, W), U and V (H/2, W/2), with H and W even.
        yuv: meaning of YUV planes; None: BGR.
        aspect: displayed width of a pixel divided by its height; 1 for most videos.
    """

    planes: tuple[Array, ...]
    yuv: Yuv | None = None
    aspect: Fraction = SQUARE

    @classmethod
    def of_bgr(cls, image: Array) -> Picture:
        """A picture of (H, W, 3) BGR uint8."""
        return cls((image,))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.planes[0].shape[0], self.planes[0].shape[1]

    def bgr(self) -> Array:
        """(H, W, 3) BGR."""
        return self.fit(self.size)

    def fit(self, size: tuple[int, int]) -> Array:
        """(h, w, 3) BGR of another size (height, width), like :func:`pipeline.frames.resize_frame`.

        Planes of YUV are resized before they are converted, and in fast steps if they shrink much, see :func:`_shrunk`.
        The usual order gives the same values except for rounding, and takes 20 times as long.
        """
        if self.yuv is None:
            return resize_frame(self.planes[0], size)
        luma, *chroma = self.planes
        planes = [_shrunk(luma, size)]
        for plane in chroma:
            small = cv2.resize(_halved(plane, size, rest=1), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
            planes.append(np.asarray(small, np.uint8))
        return np.asarray(cv2.transform(cv2.merge(planes), self.yuv.to_bgr()), np.uint8)

    def within(self, size: tuple[int, int]) -> Array:
        """(h, w, 3) BGR with square pixels, shrunk with its aspect kept until it fits into ``size`` (height, width); no
        side is enlarged."""
        height, width = self.size
        aspect = float(self.aspect)  # wide pixels make it less high, narrow ones less wide
        shown = (height / max(aspect, 1.0), width * min(aspect, 1.0))
        factor = min(1.0, size[0] / shown[0], size[1] / shown[1])
        return self.fit((max(1, round(shown[0] * factor)), max(1, round(shown[1] * factor))))

    def crop(self, box: Box) -> Picture:
        """A part of it, as views without a copy. In YUV every number of ``box`` is even."""
        return replace(self, planes=self.parts(box))

    def parts(self, box: Box) -> tuple[Array, ...]:
        """The part of every plane that shows ``box``; views."""
        parts = []
        for plane in self.planes:
            step = self.planes[0].shape[0] // plane.shape[0]
            top, left = box.top // step, box.left // step
            parts.append(plane[top : top + box.height // step, left : left + box.width // step])
        return tuple(parts)

    def colours(self, bgr: Array) -> tuple[Array, ...]:
        """Colours (N, 1, 3) BGR as lookup tables of the planes: (N, 1, 3) for BGR, three of (N,) for YUV."""
        if self.yuv is None:
            return (bgr,)
        table = np.asarray(cv2.transform(bgr, self.yuv.from_bgr()), np.uint8)  # (N, 1, 3)
        return tuple(np.ascontiguousarray(table[:, 0, index]) for index in range(3))

    def like(self, image: Array) -> tuple[Array, ...]:
        """An image (h, w, 3) BGR as planes in the format of this picture; in YUV h and w are even."""
        if self.yuv is None:
            return (image,)
        luma, *chroma = cv2.split(np.asarray(cv2.transform(image, self.yuv.from_bgr()), np.uint8))
        half = (image.shape[0] // 2, image.shape[1] // 2)
        return (np.asarray(luma, np.uint8), *(resize_frame(np.asarray(plane, np.uint8), half) for plane in chroma))


def _shrunk(plane: Array, size: tuple[int, int]) -> Array:
    """A plane at ``size``. A plane of four times the size or more is halved until it has two to four times the size,
    resized to twice the size by interpolation, and halved. This averages four points. It changes labels as little as an
    average of all pixels (docs/results/video.md), and takes half the time. If four points are too few, all pixels are
    averaged.
    """
    halved = _halved(plane, size, rest=2)
    if halved is plane or max(halved.shape[0] / size[0], halved.shape[1] / size[1]) > _SPARSE:
        return resize_frame(halved, size)
    double = cv2.resize(halved, (2 * size[1], 2 * size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.resize(double, (size[1], size[0]), interpolation=cv2.INTER_AREA), np.uint8)


def _halved(plane: Array, size: tuple[int, int], *, rest: int) -> Array:
    """A plane, halved as long as it keeps at least ``rest`` times ``size``: OpenCV averages 2x2 pixels 20 times faster
    than other areas."""
    while plane.shape[0] >= 2 * rest * size[0] and plane.shape[1] >= 2 * rest * size[1]:
        half = (plane.shape[1] // 2, plane.shape[0] // 2)
        even = plane[: 2 * half[1], : 2 * half[0]]
        plane = np.asarray(cv2.resize(even, half, interpolation=cv2.INTER_AREA), np.uint8)
    return plane
