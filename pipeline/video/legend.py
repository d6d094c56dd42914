"""The strip of class names at the lower edge of an overlay."""

from __future__ import annotations

from collections.abc import Iterable

import cv2

from pipeline.frames import Array
from pipeline.labels import LabelSpec

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MIN_WIDTH = 320  # pixels; on anything smaller it would hide the picture
_MAX_SHARE = 1 / 3  # of the picture's height


def draw_legend(picture: Array, labels: LabelSpec, ids: Iterable[int]) -> None:
    """Write colour and name of the classes ``ids`` into ``picture`` (H, W, 3), in place, in rows from the left.

    Classes that find no room in the lower third are left out; pictures narrower than 320 pixels stay as they are.
    """
    height, width = picture.shape[:2]
    if width < _MIN_WIDTH:
        return
    row = max(14, height // 30)  # height of a row of text, pixels
    scale, pad = row / 36, row // 3
    placed: list[tuple[int, int, int]] = []  # (id, left, row number)
    left, line = pad, 0
    for index in ids:
        wide = row + cv2.getTextSize(labels.names[index], _FONT, scale, 1)[0][0] + 2 * pad
        if left + wide > width and left > pad:
            left, line = pad, line + 1
        if (line + 1) * row + pad > height * _MAX_SHARE:
            break
        placed.append((int(index), left, line))
        left += wide
    if not placed:
        return
    top = height - (placed[-1][2] + 1) * row - pad
    strip = picture[top:]
    cv2.convertScaleAbs(strip, dst=strip, alpha=0.35)
    for index, left, line in placed:
        y = pad // 2 + line * row
        red, green, blue = labels.palette[index]
        cv2.rectangle(strip, (left, y + 2), (left + row - pad, y + row - 3), (blue, green, red), cv2.FILLED)
        at = (left + row, y + row - pad)
        cv2.putText(strip, labels.names[index], at, _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)
