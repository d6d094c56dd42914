"""The overlay of uncertainty: colours by how unsure the network is, and the scale that explains them."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.frames import Array
from pipeline.video.confidence import FULL
from pipeline.video.drawing.legend import FONT, MIN_WIDTH, Strip, text_row
from pipeline.video.drawing.picture import Picture, Yuv

#: Up to this probability the colour has its full opacity: all other labels together are as likely as the chosen one.
_UNSURE = 0.5
_WHITE = (255, 255, 255)


def heat_colours() -> Array:
    """(256, 1, 3) BGR by confidence 0 to 255: OpenCV's inferno, from yellow (unsure) to black (sure).

    Its brightness falls evenly, so the order of the colours can be seen without the scale, and in grey.
    """
    unsure = np.arange(FULL, -1, -1, dtype=np.uint8)[:, np.newaxis]
    return np.asarray(cv2.applyColorMap(unsure, cv2.COLORMAP_INFERNO), np.uint8)


def opacities(alpha: float) -> npt.NDArray[np.float64]:
    """(256,) share of the colour in the picture by confidence 0 to 255.

    It grows evenly from 0 at a probability of 1 to ``alpha`` at :data:`_UNSURE`, and is ``alpha`` below that.
    """
    return alpha * np.minimum(1, (1 - np.arange(256) / FULL) / (1 - _UNSURE))


class Heat:
    """Blends the colours of uncertainty into frames.

    A pixel becomes ``(1 - a) * frame + a * colour``, with ``a`` of :func:`opacities` and the colour of
    :func:`heat_colours`. Both are looked up at the size of the label map, the colour already multiplied by ``a``.

    Args:
        alpha: largest share of the colour in the picture, 0 to 1.
    """

    def __init__(self, alpha: float) -> None:
        self._opacity = opacities(alpha)
        self._tables: dict[Yuv | None, list[tuple[Array, Array]]] = {}

    def tables(self, picture: Picture) -> list[tuple[Array, Array]]:
        """For each plane of a picture two lookup tables by confidence, (256,), or (256, 1, 3) for BGR: the colour
        multiplied by its share, and the share of the frame, 0 to 255."""
        tables = self._tables.get(picture.yuv)
        if tables is None:
            tables = self._tables[picture.yuv] = [self._pair(table) for table in picture.colours(heat_colours())]
        return tables

    def _pair(self, table: Array) -> tuple[Array, Array]:
        share = np.broadcast_to(self._opacity.reshape(-1, *[1] * (table.ndim - 1)), table.shape)
        return np.asarray(np.rint(table * share), np.uint8), np.asarray(np.rint(FULL * (1 - share)), np.uint8)


class Scale(Strip):
    """Writes the scale of :class:`Heat` and the mean confidence of the frame into pictures."""

    def draw(self, picture: Picture, mean: float | None) -> None:
        """Write the scale into ``picture``, in place; pictures narrower than 320 pixels do not change.

        Args:
            mean: confidence of the frame, 0 to 1, written as whole percent; None: not written.
        """
        percent = None if mean is None else round(100 * mean)
        self.write(picture, percent, lambda: _scale_strip(percent, picture.size))


def _scale_strip(percent: int | None, size: tuple[int, int]) -> tuple[Array, Array]:
    """The scale as colours (h, W, 3) BGR on black, h even, and its mask (h, W)."""
    height, width = size
    row, scale, pad = text_row(height)
    tall = row + pad if width >= MIN_WIDTH else 0
    strip = np.zeros((tall + tall % 2, width, 3), np.uint8)
    mask = np.zeros(strip.shape[:2], np.uint8)
    if not tall:
        return strip, mask
    top, left = pad // 2, pad
    ramp = np.asarray(cv2.resize(heat_colours(), (row - 5, 5 * row), interpolation=cv2.INTER_AREA), np.uint8)
    ramp = np.ascontiguousarray(ramp.transpose(1, 0, 2))  # (row - 5, 5 * row, 3)
    mean = "" if percent is None else f"mean {percent} %"
    for part in ("confidence 0 %", None, "100 %", mean):
        if part is None:
            place = slice(top + 2, top + 2 + len(ramp)), slice(left, left + ramp.shape[1])
            strip[place], mask[place] = ramp, FULL
            left += ramp.shape[1] + pad
            continue
        for image, ink in ((strip, _WHITE), (mask, (FULL,))):
            cv2.putText(image, part, (left, top + row - pad), FONT, scale, ink, 1, cv2.LINE_AA)
        left += cv2.getTextSize(part, FONT, scale, 1)[0][0] + 2 * pad
    return strip, mask
