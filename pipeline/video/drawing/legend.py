"""The strip of class names at the lower edge of an overlay."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import cv2
import numpy as np

from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.video.drawing.picture import Picture

FONT = cv2.FONT_HERSHEY_SIMPLEX
MIN_WIDTH = 320  # pixels; the strip would hide a smaller picture
_MAX_SHARE = 1 / 3  # of the picture's height
_DARK = 0.35  # share of the picture that shines through the strip


class Strip:
    """Writes a strip at the lower edge of pictures. It is drawn once and kept until something changes."""

    def __init__(self) -> None:
        self._key: object = None
        self._planes: tuple[Array, ...] = ()
        self._masks: list[Array] = []
        self._black: tuple[int, ...] = ()

    def write(self, picture: Picture, content: Hashable, make: Callable[[], tuple[Array, Array]]) -> None:
        """Write the strip into ``picture``, in place.

        Args:
            content: key of the content; ``make`` is called only if it changes.
            make: returns colours (h, W, 3) BGR on black, h even, and their mask (h, W); h is 0 if there is no room.
        """
        key = (picture.size, picture.yuv, content)
        if key != self._key:
            self._key = key
            self._prepare(picture, *make())
        for plane, strip, mask, black in zip(picture.planes, self._planes, self._masks, self._black, strict=False):
            place = plane[-len(strip) :]
            cv2.convertScaleAbs(place, dst=place, alpha=_DARK, beta=(1 - _DARK) * black)
            cv2.copyTo(strip, mask, place)

    def _prepare(self, picture: Picture, strip: Array, mask: Array) -> None:
        self._planes, self._masks = (), []
        if not len(strip):
            return
        self._planes = picture.like(strip)
        self._masks = [
            np.asarray(cv2.resize(mask, plane.shape[1::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
            for plane in self._planes
        ]
        black = picture.colours(np.zeros((256, 1, 3), np.uint8))
        self._black = tuple(int(table.flat[0]) for table in black)


class Legend(Strip):
    """Writes colours and names of classes into pictures.

    Args:
        labels: class names and colours.
    """

    def __init__(self, labels: LabelSpec) -> None:
        super().__init__()
        self._labels = labels

    def draw(self, picture: Picture, ids: Sequence[int]) -> None:
        """Write the classes ``ids`` into ``picture``, in place, in rows from the left.

        Classes that do not fit into the lower third are left out. Pictures narrower than 320 pixels do not change.
        """
        self.write(picture, tuple(ids), lambda: _strip(self._labels, ids, picture.size))


def text_row(height: int) -> tuple[int, float, int]:
    """Height of a row of text in a picture of ``height`` rows, the scale of its font, and the space around it, in
    pixels."""
    row = max(14, height // 30)
    return row, row / 36, row // 3


def _strip(labels: LabelSpec, ids: Sequence[int], size: tuple[int, int]) -> tuple[Array, Array]:
    """Colours and names (h, W, 3) BGR on black, h even, and their mask (h, W); h is 0 if there is no room."""
    height, width = size
    row, scale, pad = text_row(height)
    placed: list[tuple[int, int, int]] = []  # (id, left, row number)
    left, line = pad, 0
    for index in ids if width >= MIN_WIDTH else ():
        wide = row + cv2.getTextSize(labels.names[index], FONT, scale, 1)[0][0] + 2 * pad
        if left + wide > width and left > pad:
            left, line = pad, line + 1
        if (line + 1) * row + pad > height * _MAX_SHARE:
            break
        placed.append((index, left, line))
        left += wide
    tall = (placed[-1][2] + 1) * row + pad if placed else 0
    strip = np.zeros((tall + tall % 2, width, 3), np.uint8)
    mask = np.zeros(strip.shape[:2], np.uint8)
    for index, left, line in placed:
        y = pad // 2 + line * row
        red, green, blue = labels.palette[index]
        at = (left + row, y + row - pad)
        for image, colour, ink in ((strip, (blue, green, red), (255, 255, 255)), (mask, (255,), (255,))):
            cv2.rectangle(image, (left, y + 2), (left + row - pad, y + row - 3), colour, cv2.FILLED)
            cv2.putText(image, labels.names[index], at, FONT, scale, ink, 1, cv2.LINE_AA)
    return strip, mask
