"""Decoded frames of PyAV as pictures, upright. YUV 4:2:0 keeps the planes of the decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from pipeline.frames import Array
from pipeline.video.drawing.picture import SQUARE, Picture, Yuv
from pipeline.video.sources import _hdr
from pipeline.video.sources._facts import Remarks, pixel_aspect

#: 8-bit YUV 4:2:0; yuva420p has one more plane, the opacity.
_PLANES = ("yuv420p", "yuvj420p", "yuva420p")
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
#: The display matrix of a picture that is not rotated, see :func:`_display_matrix`.
_AS_IT_IS = (1, 0, 0, 1)


class Turned:
    """Rotates the frames of one stream by their display matrix, and tone-maps HDR.

    Reading PyAV's ``side_data``, which has the matrix, makes the frame part of a reference cycle: its pixels stay in
    memory until the garbage collector runs. So it is read once, and again only when ``rotation`` changes.

    Args:
        stream: the stream of the frames, which has the shape of the pixels.
        remarks: gets the warning about HDR.
        tone_map: whether HDR becomes SDR.
    """

    def __init__(self, stream: Any, remarks: Remarks, *, tone_map: bool = True) -> None:
        self._rotation: int | None = None
        self._turn = _AS_IT_IS
        self._remarks = remarks
        self._tone_map = tone_map
        self._aspect = pixel_aspect(stream)
        self._warned: int | None = None  # transfer curve of the last frame

    def picture_of(self, frame: Any) -> Picture:
        """See :func:`picture_of`."""
        rotation = frame.rotation
        if rotation != self._rotation:
            self._rotation, self._turn = rotation, _display_matrix(frame)
        picture = picture_of(frame, turn=self._turn, tone_map=self._tone_map)
        self._warn(int(frame.color_trc))
        if self._aspect == SQUARE:
            return picture
        return replace(picture, aspect=1 / self._aspect if self._turn[1] else self._aspect)

    def _warn(self, transfer: int) -> None:
        if transfer == self._warned:
            return
        self._warned = transfer
        text = _hdr.remark(transfer, mapped=self._tone_map)
        if text:
            self._remarks.warn(text)


def picture_of(frame: Any, *, turn: tuple[int, int, int, int] = _AS_IT_IS, tone_map: bool = True) -> Picture:
    """A decoded av.VideoFrame as a picture.

    - YUV 4:2:0 of 8 bits with even sides is not copied: the planes are views that keep the frame alive.
    - Other YUV with subsampled chroma and even sides becomes 4:2:0 of 8 bits with the same matrix and range. 10 bits
      lose two bits, and 4:2:2 loses half of its chroma lines; the engine's input does not need them.
    - Everything else becomes BGR. RGB, palettes and grey keep their exact values.
    - HDR is tone-mapped if ``tone_map``, see :func:`pipeline.video.sources._hdr.tone_mapped`.
    """
    yuv = _meaning(frame)
    form = frame.format
    if tone_map and yuv.transfer in _hdr.NAMES:
        mapped = _tone_mapped(frame, yuv)
        return replace(mapped, planes=tuple(_upright(plane, turn) for plane in mapped.planes))
    even = frame.height % 2 == 0 and frame.width % 2 == 0
    if len(form.components) < 3 and not form.has_palette:  # grey, with opacity or without; 1 bit, 8 or more
        grey = _plane(_converted(frame, "gray", yuv), 0, (frame.height, frame.width))
        return Picture.of_bgr(_upright(np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8), turn))
    if even and not form.is_rgb and not form.has_palette and _shares_chroma(frame):
        same = frame if form.name in _PLANES else _converted(frame, "yuv420p", yuv)
        if all(plane.line_size > 0 for plane in same.planes):  # else upside down in memory
            half = (frame.height // 2, frame.width // 2)
            planes = [_plane(same, index, size) for index, size in enumerate([(frame.height, frame.width), half, half])]
            return Picture(tuple(_upright(plane, turn) for plane in planes), yuv)
    bgr = np.asarray(_converted(frame, "bgr24", yuv).to_ndarray(), np.uint8)  # (H, W, 3)
    return Picture.of_bgr(_upright(bgr, turn))


def _tone_mapped(frame: Any, yuv: Yuv) -> Picture:
    if not frame.format.is_rgb:
        return _hdr.tone_mapped(_converted(frame, _hdr.FORMAT, yuv), yuv)
    matrix = _hdr.BT2020
    planes = frame.reformat(format=_hdr.FORMAT, dst_colorspace=matrix, src_color_range=_FULL_RANGE, dst_color_range=1)
    return _hdr.tone_mapped(planes, yuv._replace(matrix=matrix, full_range=False))


def _meaning(frame: Any) -> Yuv:
    return Yuv(
        matrix=int(frame.colorspace),
        full_range=int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj"),
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
    )


def _shares_chroma(frame: Any) -> bool:
    """Whether chroma has fewer samples than luma, as in 4:2:0 and 4:2:2."""
    form = frame.format
    return bool(form.chroma_width(frame.width) < frame.width or form.chroma_height(frame.height) < frame.height)


def _converted(frame: Any, form: str, yuv: Yuv) -> Any:
    """Convert with FFmpeg's scaler. The range is given, because the scaler reads it only from yuvj formats."""
    if frame.format.name == form:
        return frame
    source = _FULL_RANGE if yuv.full_range or frame.format.is_rgb else 1
    target = _FULL_RANGE if form in ("bgr24", "gray") else source
    return frame.reformat(format=form, src_color_range=source, dst_color_range=target)


def _plane(frame: Any, index: int, size: tuple[int, int]) -> Array:
    """One plane (height, width) as a read-only view; lines are padded in memory."""
    plane = frame.planes[index]
    view = np.frombuffer(plane, np.uint8).reshape(-1, abs(plane.line_size))[: size[0], : size[1]]
    view.flags.writeable = False
    return view[::-1] if plane.line_size < 0 else view


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the display matrix as signs: a pixel at (x, y) is shown at (a x + c y, b x + d y)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return _AS_IT_IS
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
    # quarter turns only: other angles are rounded to the nearer axis
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1)
    return (0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0)


def _upright(plane: Array, turn: tuple[int, int, int, int]) -> Array:
    a, b, c, d = turn
    if turn == _AS_IT_IS:
        return plane
    image = cv2.transpose(plane) if b else plane
    down, right = (b < 0, c < 0) if b else (d < 0, a < 0)  # axes that are mirrored
    if down or right:
        image = cv2.flip(image, -1 if down and right else 0 if down else 1)
    return np.asarray(image, np.uint8)
