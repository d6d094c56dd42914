"""Zones: named polygons of a frame. Classes are counted per zone; ignored zones (the car's bonnet) are not counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.video.confidence import confidence_facts
from pipeline.video.drawing.picture import Box, Picture
from pipeline.video.pixels import Counts, class_shares
from pipeline.video.zone_file import Points, Zone

_COLOURS = ((0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0))  # BGR of the outlines, in turn
_GREY = (160, 160, 160)  # BGR of the outline of an ignored zone


class Zones:
    """Counts the classes of label maps per zone, and draws outlines.

    Args:
        zones: of a file, see :func:`pipeline.video.zone_file.read_zones`.
        ignore_index: id for the pixels of ignored zones.
    """

    def __init__(self, zones: Sequence[Zone], *, ignore_index: int) -> None:
        self._counted = [zone for zone in zones if not zone.ignored]
        self._ignored = [zone for zone in zones if zone.ignored]
        self._all, self.ignore_index = list(zones), ignore_index
        self._key: object = None
        self._inside: dict[str, npt.NDArray[np.intp]] = {}
        self._excluded = np.zeros(0, np.intp)
        self._outlines: tuple[object, tuple[tuple[Array, Array], ...]] | None = None

    @property
    def excluded(self) -> int:
        """Number of pixels of the last label map that are in ignored zones."""
        return len(self._excluded)

    def exclude(self, label_map: Array, *, box: Box, size: tuple[int, int]) -> Array:
        """The label map with the ignored id in ignored zones; :attr:`excluded` is the number of these pixels.

        Args:
            label_map: (h, w) train ids of ``box``; not changed.
            box: the part of the frame that ``label_map`` shows.
            size: (height, width) of the frame.

        Raises:
            UserError: a zone is outside the frame or has no pixel of the label map, or all pixels are ignored.
        """
        key = (label_map.shape, box, size)
        if key != self._key:
            self._prepare(label_map.shape, box, size)
            self._key = key
        if not len(self._excluded):
            return label_map
        changed = label_map.copy()
        changed.ravel()[self._excluded] = self.ignore_index
        return changed

    def blank(self, confidence: Array) -> Array:
        """Confidence (h, w) with 0 in ignored zones; the argument is not changed. Call :meth:`exclude` for its map
        first."""
        if not len(self._excluded):
            return confidence
        changed = confidence.copy()
        changed.ravel()[self._excluded] = 0
        return changed

    def count(self, label_map: Array) -> dict[str, Counts]:
        """(256,) pixels of every id, by zone, without ignored zones. Call :meth:`exclude` for the map first."""
        ids = label_map.ravel()
        return {name: np.bincount(ids[inside], minlength=256) for name, inside in self._inside.items()}

    def sum_confidence(self, label_map: Array, confidence: Array) -> dict[str, Counts]:
        """(256,) sum of the confidence of the pixels of every id, by zone, like :meth:`count`."""
        ids, values = label_map.ravel(), confidence.ravel()
        return {
            name: np.bincount(ids[inside], weights=values[inside], minlength=256).astype(np.int64)
            for name, inside in self._inside.items()
        }

    def _prepare(self, shape: tuple[int, ...], box: Box, size: tuple[int, int]) -> None:
        rows, columns = shape
        x = box.left + (np.arange(columns) + 0.5) * box.width / columns
        y = box.top + (np.arange(rows) + 0.5) * box.height / rows
        excluded = np.zeros(shape, bool)
        for zone in self._ignored:
            excluded |= contains(zone.corners(size), x, y)
        if excluded.all():
            raise UserError("zones: the ignored zones cover the whole part that the engine segments; make them smaller")
        self._excluded = np.flatnonzero(excluded)
        self._inside = {}
        for zone in self._counted:
            self._inside[zone.name] = np.flatnonzero(contains(zone.corners(size), x, y) & ~excluded)
            if not len(self._inside[zone.name]):
                raise UserError(
                    f"zone '{zone.name}': no pixel of the label map ({columns}x{rows}) is inside; make it larger, or "
                    "check --region and the ignored zones"
                )

    def draw(self, picture: Picture) -> None:
        """Draw the outlines into a picture, in place. Its planes must not be shared."""
        key = (picture.size, picture.yuv)
        if self._outlines is None or self._outlines[0] != key:
            self._outlines = key, self._outline(picture)
        for plane, (outline, mask) in zip(picture.planes, self._outlines[1], strict=True):
            cv2.copyTo(outline, mask, plane)

    def _outline(self, picture: Picture) -> tuple[tuple[Array, Array], ...]:
        """The outlines on black and where they are, for every plane."""
        height, width = picture.size
        image, mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
        thick = max(2, height // 240)
        for index, zone in enumerate(self._all):
            corners = np.rint(zone.corners(picture.size)).astype(np.int32)
            colour = _GREY if zone.ignored else _COLOURS[index % len(_COLOURS)]
            left, top = corners[corners[:, 1].argmin()]
            at = (int(left), int(max(top - thick, 6 * thick)))
            # the colours are drawn wider than where they are used: chroma has half the resolution
            for canvas, ink, wider in ((image, colour, 2), (mask, (255,), 0)):
                cv2.polylines(canvas, [corners], isClosed=True, color=ink, thickness=thick + wider)
                scale, pen = height / 900, max(1, thick // 2) + wider
                cv2.putText(canvas, zone.name, at, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, pen)
        planes = []
        for plane in picture.like(image):
            there = cv2.resize(mask, plane.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            planes.append((plane, np.asarray(there, np.uint8)))
        return tuple(planes)


def contains(corners: Points, x: Points, y: Points) -> npt.NDArray[np.bool_]:
    """(len(y), len(x)): whether points of a grid are inside a polygon (even-odd rule).

    Args:
        corners: (N, 2) x and y.
        x, y: of the columns and rows.

    Example:
        >>> square = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
        >>> contains(square, np.array([1.0, 3.0]), np.array([1.0])).tolist()
        [[True, False]]
    """
    inside = np.zeros((len(y), len(x)), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crosses = (y0 <= y) != (y1 <= y)  # the rows that this edge crosses
        rows = np.flatnonzero(crosses)
        if len(rows):
            at = x0 + (y[rows] - y0) * (x1 - x0) / (y1 - y0)
            inside[rows] ^= x[np.newaxis, :] < at[:, np.newaxis]
    return inside


def zone_shares(
    counts: Mapping[str, Counts], labels: LabelSpec, *, confidence_sums: Mapping[str, Counts] | None = None
) -> dict[str, dict[str, Any]]:
    """``{zone: {"shares": {class: 0..1}, "other": 0..1}}`` from the counts of :meth:`Zones.count`.

    With the sums of :meth:`Zones.sum_confidence` also the keys of :func:`pipeline.video.confidence.confidence_facts`.
    """
    facts: dict[str, dict[str, Any]] = {}
    for name, pixels in counts.items():
        shares, other = class_shares(pixels, labels)
        facts[name] = {
            "shares": {label: round(share, 6) for label, share in shares.items()},
            "other": round(other, 6),
        }
        if confidence_sums:
            facts[name] |= confidence_facts(confidence_sums[name], pixels, labels)
    return facts
