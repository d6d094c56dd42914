"""Animated PNG and WebP files."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.errors import UserError
from pipeline.frames import PNG_SIGNATURE
from pipeline.video.drawing.picture import Picture
from pipeline.video.names import STEM, shortened
from pipeline.video.sources._base import Frame, Source

log = logging.getLogger(__name__)

_HEAD = 65_536  # bytes; the chunk that marks an animation comes before the first picture
_AT_A_TIME = 16  # pictures that are decoded together; a long animation would not fit into memory


def is_animated(path: Path) -> bool:
    """Whether a PNG or WebP file is an animation of more than one picture; False for all other files."""
    if path.suffix.lower() not in (".png", ".webp"):
        return False
    try:
        with path.open("rb") as file:
            return _marks_animation(file.read(_HEAD))
    except OSError:
        return False  # the reader of the picture has the better message


def _marks_animation(head: bytes) -> bool:
    """Whether the first bytes of a file mark an animation. PNG: a chunk ``acTL`` before the first ``IDAT``; WebP: a
    flag of ``VP8X`` (https://developers.google.com/speed/webp/docs/riff_container)."""
    if head.startswith(PNG_SIGNATURE):
        place = len(PNG_SIGNATURE)
        while place + 12 <= len(head):
            length, kind = struct.unpack_from(">I4s", head, place)
            if kind == b"acTL":
                return bool(struct.unpack_from(">I", head, place + 8)[0] > 1)
            if kind == b"IDAT":
                return False
            place += 12 + length
        return False
    is_webp = head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > 20
    return bool(is_webp and head[20] & 0x02)


class AnimatedWebp(Source):
    """An animated WebP file, read with OpenCV, because FFmpeg cannot decode it.

    Timestamps follow from the durations in the file.

    Args:
        fps: frame rate that replaces those durations.

    Raises:
        UserError: this OpenCV cannot read it, or no picture in it can be decoded.
    """

    def __init__(self, path: Path, *, fps: float | None = None) -> None:
        self.name = str(path)
        self.stem = shortened(path.stem, STEM)
        self._path = path
        self._step = 1 / fps if fps else None
        if not hasattr(cv2, "imreadanimation"):
            raise UserError(
                f"{path}: OpenCV {cv2.__version__} does not read animated WebP, 4.11 does; or convert it: "
                "magick IN.webp OUT.gif"
            )
        first = self._read(0)
        if not first:
            raise UserError(f"{path}: not one picture of this animation can be decoded; restore the file")
        self.count = int(cv2.imcount(str(path))) or None
        seconds = sum(duration for _, duration in first)
        self.fps = len(first) / seconds if seconds > 0 else None

    def _read(self, start: int) -> list[tuple[Any, float]]:
        """(picture, seconds that it is shown) from number ``start`` on; empty after the last picture."""
        done, animation = cv2.imreadanimation(str(self._path), start=start, count=_AT_A_TIME)
        if not done:
            return []
        durations = [self._step or int(duration) / 1000 for duration in animation.durations]
        return list(zip(animation.frames, durations, strict=True))

    def frames(self, *, start: float = 0.0) -> Iterator[Frame]:
        self.damage = ""
        number, time, given = 0, 0.0, False
        nearest = start - 0.5 / self.fps if self.fps and start else start  # as in videos
        while pictures := self._read(number):
            for image, seconds in pictures:
                if time >= nearest - 1e-6:
                    given = True
                    yield Frame(f"{self.stem}-{number:06d}", time, Picture.of_bgr(_without_opacity(image)))
                number, time = number + 1, time + seconds
        if self.count and number < self.count:
            self.damage = f"{number} of {self.count} pictures were read"
            log.warning("%s: damaged: %s", self.name, self.damage)
        if not given:
            raise UserError(f"{self.name}: nothing from {start:g} s on, it ends at {time:.2f} s; start earlier")


def _without_opacity(image: Any) -> Any:
    if image.ndim == 2:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)
    return np.ascontiguousarray(image[..., :3], np.uint8)
