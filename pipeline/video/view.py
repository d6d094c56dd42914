"""The part of a frame that the engine segments, and its place in the engine's input."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array, resize_label_map
from pipeline.video.drawing.picture import SQUARE, Box, Picture

#: How a part of another shape becomes the engine's input. Training, calibration and checks use ``stretch``.
POLICIES = ("stretch", "letterbox", "crop")
_PAD = 114  # grey of the padding, as in the letterboxes of most detectors


@dataclass(frozen=True)
class View:
    """From a frame to the engine's input and back.

    Attributes:
        box: the part of the frame that is segmented; even numbers, because chroma of video has half the resolution. A
            frame with an odd side keeps its last row or column only if the whole frame is segmented.
        inner: the place of the part in the engine's input; the rest is grey.
    """

    box: Box
    inner: Box
    input_size: tuple[int, int]

    def fit(self, picture: Picture) -> Array:
        """The engine's input (H, W, 3) BGR."""
        inside = picture.crop(self.box).fit((self.inner.height, self.inner.width))
        if inside.shape[:2] == self.input_size:
            return inside
        whole = np.full((*self.input_size, 3), _PAD, np.uint8)
        whole[_slices(self.inner)] = inside
        return whole

    def seen(self, fitted: Array) -> Picture:
        """The result of :meth:`fit` without the grey: the part whose labels :meth:`cut` returns."""
        return Picture.of_bgr(fitted[_slices(self.inner)])

    def cut(self, label_map: Array) -> Array:
        """The part of the engine's label map (h, w) that shows ``box``."""
        top, left, height, width = self.inner
        rows, columns = label_map.shape
        return label_map[
            _share(top, height, whole=self.input_size[0], cells=rows),
            _share(left, width, whole=self.input_size[1], cells=columns),
        ]


def _share(start: int, length: int, *, whole: int, cells: int) -> slice:
    """The cells of ``whole`` that are in a part of it; at least one."""
    first = min(round(start * cells / whole), cells - 1)
    return slice(first, max(round((start + length) * cells / whole), first + 1))


def place(label_map: Array, box: Box, *, size: tuple[int, int], outside: int) -> Array:
    """A label map (h, w) of the part ``box`` as one of the whole frame, (H, W) of ``size``; or the same for confidence.

    Args:
        outside: value of the pixels outside ``box``.
    """
    inside = resize_label_map(label_map, (box.height, box.width))
    if inside.shape == size:
        return inside
    whole = np.full(size, outside, np.uint8)
    whole[_slices(box)] = inside
    return whole


def _slices(box: Box) -> tuple[slice, slice]:
    return slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)


@dataclass(frozen=True)
class Region:
    """A part of every frame, as the user names it: left, top, width and height, in pixels or shares of the frame."""

    text: str
    numbers: tuple[float, float, float, float]
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Region:
        """``100,200,640,360`` in pixels, or ``0%,40%,100%,60%``: left, top, width, height.

        Raises:
            UserError: not four numbers, mixed units, or an empty part.

        Example:
            >>> Region.parse("0%,50%,100%,50%").of((480, 640))
            Box(top=240, left=0, height=240, width=640)
        """
        fields = [field.strip() for field in text.split(",")]
        signs = {field.endswith("%") for field in fields}
        try:
            left, top, width, height = (float(field.rstrip("%")) for field in fields)
        except ValueError:
            signs = set()
            left = top = width = height = 0.0
        if len(signs) != 1 or not (left >= 0 and top >= 0 and 0 < width < 1e6 and 0 < height < 1e6):
            raise UserError(
                f"region: got '{text}'; needed: left,top,width,height, all in pixels (100,200,640,360) or all in "
                "percent (0%,40%,100%,60%), width and height above 0"
            )
        return cls(text, (left, top, width, height), signs == {True})

    def of(self, size: tuple[int, int]) -> Box:
        """The part of a frame of ``size`` (height, width), on even pixels. Raises UserError if it does not fit."""
        left, top, width, height = self.numbers
        if self.relative:
            left, width = left * size[1] / 100, width * size[1] / 100
            top, height = top * size[0] / 100, height * size[0] / 100
        if left + width > size[1] + 0.5 or top + height > size[0] + 0.5:
            raise UserError(
                f"region {self.text} reaches beyond the frame, which is {size[1]}x{size[0]} (width x height); "
                "name a part of it"
            )
        whole = (round(left), round(top)) == (0, 0) and (round(height), round(width)) == size
        if whole:
            return Box(0, 0, *size)
        even = [2 * round(number / 2) for number in (top, left, height, width)]
        box = Box(even[0], even[1], max(2, even[2]), max(2, even[3]))
        if box.top + box.height > size[0] or box.left + box.width > size[1]:
            box = Box(
                box.top, box.left, min(box.height, (size[0] - box.top) & ~1), min(box.width, (size[1] - box.left) & ~1)
            )
        if box.height < 2 or box.width < 2:
            raise UserError(f"region {self.text} is below 2x2 pixels of a {size[1]}x{size[0]} frame; name a larger one")
        return box


@dataclass(frozen=True)
class Looking:
    """The part of frames that an engine segments, and how it is fitted into the input.

    Args:
        policy: one of :data:`POLICIES`: ``stretch`` the part to the input, ``letterbox`` keeps its shape and pads,
            ``crop`` keeps its shape and takes only the middle.
        region: the part; None for all.

    Raises:
        UserError: an unknown policy.
    """

    policy: str = "stretch"
    region: Region | None = None

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise UserError(f"resize policy: got '{self.policy}'; allowed: {', '.join(POLICIES)}")

    def at(
        self,
        size: tuple[int, int],
        *,
        input_size: tuple[int, int],
        output_size: tuple[int, int],
        aspect: Fraction = SQUARE,
    ) -> View:
        """The view of frames of a size.

        Args:
            size: (height, width) of the frames.
            input_size, output_size: of the engine.
            aspect: width of a pixel by its height.

        Raises:
            UserError: the region reaches beyond the frame.
        """
        box = self.region.of(size) if self.region else Box(0, 0, *size)
        step = (max(1, input_size[0] // output_size[0]), max(1, input_size[1] // output_size[1]))
        inner = Box(0, 0, *input_size)
        # (height, width) with the same aspect: of a part of the box, or of the input
        width = box.width * float(aspect)  # as it is shown, in heights of a pixel
        tall = box.height * input_size[1] > width * input_size[0]
        if self.policy == "crop":
            if tall:
                box = _centred(box, (width * input_size[0] / input_size[1], box.width), (2, 2))
            else:
                box = _centred(box, (box.height, box.height * input_size[1] / input_size[0] / float(aspect)), (2, 2))
        elif self.policy == "letterbox":
            if tall:
                inner = _centred(inner, (input_size[0], input_size[0] * width / box.height), step)
            else:
                inner = _centred(inner, (input_size[1] * box.height / width, input_size[1]), step)
        return View(box, inner, input_size)


def _centred(around: Box, size: tuple[float, float], step: tuple[int, int]) -> Box:
    """A box of about ``size`` in the middle of another one, all its numbers multiples of ``step`` where it shrinks."""
    sides = []
    for start, whole, wanted, unit in zip(around[:2], around[2:], size, step, strict=True):
        length = min(whole, max(unit, round(wanted / unit) * unit)) if wanted < whole else whole
        sides.append((start + (whole - length) // 2 // unit * unit, length))
    (top, height), (left, width) = sides
    return Box(top, left, height, width)
