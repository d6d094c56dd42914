"""Frames tinted with the colours of their classes, plane by plane: video stays YUV, images stay BGR."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.video.confidence import FULL
from pipeline.video.drawing.legend import Legend
from pipeline.video.drawing.picture import Box, Picture, Yuv
from pipeline.video.drawing.uncertainty import Heat, Scale
from pipeline.video.workers.buffers import Buffers
from pipeline.video.zones import Zones

_HALF = 0.5  # equal shares of colour and frame: the default, and three times as fast


class Overlay:
    """Blends class colours into frames.

    Colours are looked up at label-map size and enlarged afterwards: at 1080p this takes 1 ms per frame instead of 25.

    Args:
        labels: class names and colours.
        alpha: share of the colour in the picture, 0 (the frame alone) to 1 (the colours alone).
        legend: write the names of the classes that occurred so far into the picture.
        only: ids that are tinted; None for all.
        side_by_side: the frame as it is to the left of the tinted one.
        zones: their outlines are drawn; None: no zones.
        uncertainty: show how unsure the network is, instead of the classes, see
            :class:`pipeline.video.drawing.uncertainty.Heat`; the legend is then its scale.

    Attributes:
        shows_confidence: :meth:`draw` needs ``confidence``.

    Raises:
        UserError: ``alpha`` is out of range.
    """

    def __init__(
        self,
        labels: LabelSpec,
        *,
        alpha: float = 0.5,
        legend: bool = False,
        only: Collection[int] | None = None,
        side_by_side: bool = False,
        zones: Zones | None = None,
        uncertainty: bool = False,
    ) -> None:
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha is {alpha}; allowed: 0 (the frame alone) to 1 (the colours alone)")
        self.alpha = alpha
        self.side_by_side = side_by_side
        self.shows_confidence = uncertainty
        self._zones = zones
        self._palette = labels.lookup_bgr()  # (256, 1, 3)
        self._bare = np.full(256, FULL, np.uint8)
        self._bare[list(range(labels.num_classes)) if only is None else list(only)] = 0
        self._legend = Legend(labels) if legend and not uncertainty else None
        self._scale = Scale() if legend and uncertainty else None
        self._heat = Heat(alpha) if uncertainty else None
        self._tables: dict[Yuv | None, tuple[Array, ...]] = {}
        self._buffers = Buffers()
        self._size = (0, 0)
        self._seen: set[int] = set()

    def draw(
        self,
        picture: Picture,
        label_map: Array,
        *,
        box: Box,
        pixels: np.ndarray[tuple[int], np.dtype[np.int64]],
        confidence: Array | None = None,
        mean_confidence: float | None = None,
    ) -> Picture:
        """A tinted copy of a frame; pixels of ignored, unknown and unwanted ids stay as they are.

        Args:
            picture: the frame; not changed.
            label_map: (h, w) train ids of ``box``, of any size.
            box: the part of the frame that ``label_map`` shows.
            pixels: (256,) number of pixels of each id in ``label_map``.
            confidence: (h, w) of the pixels of ``label_map``, 0 to 255; needed if it is shown.
            mean_confidence: of all pixels, 0 to 1; None: not in the legend.
        """
        if picture.size != self._size:
            self._size = picture.size
            self._buffers.clear()
        occurring = np.flatnonzero(pixels)
        partly = bool(self._bare[occurring].any())
        bare = np.asarray(cv2.LUT(label_map, self._bare), np.uint8) if partly else None
        whole = (box.height, box.width) == picture.size
        planes = [self._buffers.get(plane.shape) for plane in picture.planes]
        if not whole:
            for plane, copy in zip(picture.planes, planes, strict=True):
                np.copyto(copy, plane)
        drawn = replace(picture, planes=tuple(planes))
        if self._heat:
            assert confidence is not None, "needs a run that asks the engine for confidence"
            self._warm(picture, drawn, confidence if bare is None else np.maximum(confidence, bare), box, self._heat)
        else:
            self._tint(picture, drawn, label_map, box, bare)
        if self._zones:
            self._zones.draw(drawn)
        if self._legend:
            self._seen.update(int(index) for index in occurring if not self._bare[index])
            self._legend.draw(drawn, sorted(self._seen))
        if self._scale:
            self._scale.draw(drawn, mean_confidence)
        if self.side_by_side:
            return replace(drawn, planes=tuple(np.hstack(pair) for pair in zip(picture.planes, planes, strict=True)))
        return drawn

    def _tint(self, picture: Picture, drawn: Picture, label_map: Array, box: Box, bare: Array | None) -> None:
        """Blend the colours of classes into ``drawn``; where ``bare`` (h, w) is not 0, the frame stays as it is."""
        tables = self._tables.get(picture.yuv)
        if tables is None:
            tables = self._tables[picture.yuv] = self._lookup(picture)
        for part, out, table in zip(picture.parts(box), drawn.parts(box), tables, strict=True):
            size = (part.shape[0], part.shape[1])
            self._blend(part, _enlarge(_looked_up(label_map, table), self._buffers.get(part.shape)), out)
            if bare is not None:
                cv2.copyTo(part, _enlarge(bare, self._buffers.get(size)), out)

    def _warm(self, picture: Picture, drawn: Picture, confidence: Array, box: Box, heat: Heat) -> None:
        """Blend the colours of uncertainty into ``drawn``; where confidence (h, w) is 255, the frame stays as it is."""
        for part, out, (colours, kept) in zip(picture.parts(box), drawn.parts(box), heat.tables(picture), strict=True):
            share = _enlarge(_looked_up(confidence, kept), self._buffers.get(part.shape))
            cv2.multiply(part, share, dst=out, scale=1 / FULL)
            cv2.add(out, _enlarge(_looked_up(confidence, colours), share), dst=out)

    def _lookup(self, picture: Picture) -> tuple[Array, ...]:
        tables = picture.colours(self._palette)
        return tuple(table // 2 + table % 2 for table in tables) if self.alpha == _HALF else tables

    def _blend(self, part: Array, colours: Array, out: Array) -> None:
        """Blend with ``alpha``. At one half the result is half of the frame, rounded down, plus half of the colour,
        rounded up: at most a rounding error from the mean, in a third of the time."""
        if self.alpha == _HALF:
            cv2.add(np.right_shift(part, 1, out=out), colours, dst=out)
        else:
            cv2.addWeighted(part, 1 - self.alpha, colours, self.alpha, 0, dst=out)


def _looked_up(values: Array, table: Array) -> Array:
    """(h, w) of a table (256,), or (h, w, 3) of a table (256, 1, 3)."""
    indices = values if table.ndim == 1 else cv2.cvtColor(values, cv2.COLOR_GRAY2BGR)
    return np.asarray(cv2.LUT(indices, table), np.uint8)


def _enlarge(image: Array, out: Array) -> Array:
    """(h, w) or (h, w, 3) at the size of ``out``, written into it, with the result of
    :func:`pipeline.frames.resize_label_map`, so that colours and masks agree in every pixel. It copies whole rows, and
    columns as rows of the transposed image, in an eighth of the time."""
    columns = np.take(np.asarray(cv2.transpose(image), np.uint8), _rows(image.shape[1], out.shape[1]), axis=0)
    wide = np.asarray(cv2.transpose(columns), np.uint8)
    # with mode "raise" numpy would make a copy first
    return np.take(wide, _rows(len(image), out.shape[0]), axis=0, out=out, mode="clip")


@lru_cache(maxsize=16)
def _rows(height: int, wanted: int) -> npt.NDArray[np.intp]:
    """(wanted,) number of the source row, 0 to ``height`` - 1, of each row."""
    numbers = np.arange(height, dtype=np.float32)[:, np.newaxis]
    chosen = cv2.resize(numbers, (1, wanted), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.rint(chosen).astype(np.intp).ravel()
