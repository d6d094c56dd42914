"""Converts pictures to frames of PyAV for an encoder, all of one size and pixel format."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.video.drawing.picture import BT709, Picture, Yuv

log = logging.getLogger(__name__)

TAGGED = Yuv(matrix=BT709, primaries=BT709, transfer=BT709)  # what browsers assume for HD


class EncoderFrames:
    """Frames in yuv420p with the size of the first one. An odd width or height is padded by one repeated pixel. A
    picture of another size is fitted into that of the first one, with grey bars if its shape differs.

    Args:
        av: the module.
        target: of the encoder, for messages.

    Attributes:
        first: the first picture; None before it.
    """

    def __init__(self, av: Any, target: Path | str) -> None:
        self.first: Picture | None = None
        self._av, self._target = av, target
        self._frame: Any = None  # used again and again
        self._fitted: tuple[int, int] | None = None  # the last other size, which has a warning

    def frame(self, picture: Picture, name: str) -> Any:
        """A picture as PyAV's frame, without a time. ``name`` is for messages. The next call overwrites the frame."""
        if self.first is None:
            self.first = picture
        if picture.size != self.first.size or picture.yuv != self.first.yuv:
            picture = self._adapted(picture, self.first, name)
        return self._encodable(picture)

    def describe_to(self, stream: Any) -> None:
        """Set the size, the pixel aspect and the colour properties of an encoder's stream."""
        assert self.first is not None
        height, width = self.first.size
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        tags = self.first.yuv or TAGGED
        codec.colorspace, codec.color_primaries, codec.color_trc = tags.matrix, tags.primaries, tags.transfer
        codec.color_range = 2 if tags.full_range else 1
        codec.sample_aspect_ratio = self.first.aspect

    def _adapted(self, picture: Picture, first: Picture, name: str) -> Picture:
        """A picture with the size and the pixel format of the first one."""
        height, width = first.size
        if picture.size not in {first.size, self._fitted}:
            self._fitted = picture.size
            log.warning(
                "%s: %s is %dx%d (width x height), the frames before it were %dx%d: fitted into that",
                *(self._target, name, *picture.size[::-1], width, height),
            )
        scale = min(height / picture.size[0], width / picture.size[1])
        tall, wide = (max(2, round(side * scale) & ~1) for side in picture.size)
        inside = picture.fit((min(tall, height), min(wide, width)))
        top, left = (height - inside.shape[0]) // 2, (width - inside.shape[1]) // 2
        whole = np.full((height, width, 3), 64, np.uint8)
        whole[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        return Picture(first.like(whole), first.yuv)

    def _encodable(self, picture: Picture) -> Any:
        if picture.yuv is None:
            height, width = picture.size
            even = cv2.copyMakeBorder(picture.planes[0], 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(even, np.uint8), format="bgr24")
            return frame.reformat(format="yuv420p", dst_colorspace=TAGGED.matrix, dst_color_range=1)
        if self._frame is None:
            self._frame = self._av.VideoFrame(picture.size[1], picture.size[0], "yuv420p")
        frame = self._frame
        frame.make_writable()  # a copy if the encoder still uses it; libx264 copies what it needs
        for place, plane in zip(frame.planes, picture.planes, strict=True):
            rows = np.frombuffer(place, np.uint8).reshape(place.height, place.line_size)
            np.copyto(rows[:, : place.width], plane)
        return frame
