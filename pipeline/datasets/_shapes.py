"""From shapes of annotation tools to masks: the code that all their plugins use to draw shapes.

The origin is the top left corner of the top left pixel; x goes right and y goes down; column 0 covers x from 0 to 1. A
pixel belongs to a shape if its centre is inside. COCO's own code (pycocotools) fills polygons, so masks equal those of
the COCO API; it rounds coordinates to a fifth of a pixel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Gt
from pycocotools import mask as coco

from pipeline.errors import UserError

Size = tuple[int, int]
Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
Width = Annotated[float, Gt(0)]  # of a line, in pixels


def points(values: Any, *, least: int) -> Points:
    """Coordinates as (n, 2) float64, x and y.

    Args:
        values: pairs, or a flat list of x, y, x, y, ...
        least: minimum number of points.

    Raises:
        UserError: the values are not numbers, or not finite; their number is odd; there are too few points.
    """
    try:
        coordinates = np.asarray(values, np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        raise UserError("points must be pairs of numbers") from None
    if len(coordinates) < least or not np.isfinite(coordinates).all():
        raise UserError(f"{len(coordinates)} points; allowed: {least} or more, finite")
    return coordinates


def polygon(outline: Points, size: Size) -> Mask:
    """Pixels (H, W) inside a polygon, by the even-odd rule.

    Raises:
        UserError: there are fewer than 3 points; all points are in the first pixel (they are probably relative to the
            size); or a point is far outside the image (it probably belongs to another image).
    """
    if len(outline) < 3:
        raise UserError(f"a polygon of {len(outline)} points; allowed: 3 or more")
    if min(size) > 2 and outline.min() >= 0 and outline.max() <= 1:
        raise UserError(
            "all points are between 0 and 1, inside the first pixel; if they are relative to width and height, export "
            "them in pixels"
        )
    _check_near(outline, size)
    return np.asarray(coco.decode(coco.frPyObjects([outline.ravel().tolist()], *size))[..., 0], bool)


def union(masks: Iterable[Mask], size: Size) -> Mask:
    """Pixels (H, W) that are in any of the masks."""
    pixels = np.zeros(size, bool)
    for mask in masks:
        pixels |= mask
    return pixels


def box(corners: Points, size: Size, *, degrees: float = 0.0, pivot: Points | None = None) -> Mask:
    """Pixels (H, W) of a rectangle by two opposite corners (2, 2), rotated clockwise about ``pivot`` or its centre."""
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    outline = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    centre = outline.mean(axis=0) if pivot is None else pivot
    return polygon(centre + (outline - centre) @ _turn(degrees), size)


def ellipse(centre: Points, radii: Points, size: Size, *, degrees: float = 0.0) -> Mask:
    """Pixels (H, W) of an ellipse with the radii (2,) ``radii`` in x and y, rotated clockwise about its centre."""
    if (radii <= 0).any():
        raise UserError(f"an ellipse with radii {radii.tolist()}; allowed: more than 0")
    _check_near(centre[None], size)
    away = (_centres(size) - centre) @ _turn(degrees).T / radii
    return np.asarray((away**2).sum(axis=-1) <= 1)


def stroke(line: Points, size: Size, *, width: float) -> Mask:
    """Pixels (H, W) of a line through the points, ``width`` pixels wide; one point gives a disc."""
    _check_near(line, size)
    pixels = np.zeros(size, bool)
    centres = _centres(size)
    for start, end in zip(line[:-1] if len(line) > 1 else line, line[1:] if len(line) > 1 else line, strict=True):
        direction = end - start
        length = float(direction @ direction)
        position = np.clip((centres - start) @ direction / length, 0, 1) if length else np.zeros(size)
        pixels |= ((centres - start - position[..., None] * direction) ** 2).sum(axis=-1) <= (width / 2) ** 2
    return pixels


def placed(part: Mask, *, top: int, left: int, size: Size) -> Mask:
    """Mask (H, W) that contains a smaller mask at row ``top`` and column ``left``.

    Raises:
        UserError: the smaller mask is not completely inside the image.
    """
    bottom, right = top + part.shape[0], left + part.shape[1]
    if min(top, left) < 0 or bottom > size[0] or right > size[1]:
        where = f"rows {top}..{bottom - 1} and columns {left}..{right - 1}"
        raise UserError(f"a mask at {where} is not inside its image of {size[0]}x{size[1]}")
    pixels = np.zeros(size, bool)
    pixels[top:bottom, left:right] = part
    return pixels


def _check_near(outline: Points, size: Size) -> None:
    """Raise UserError if a point is further outside the image than the image is wide or high."""
    height, width = size
    low, high = outline.min(axis=0), outline.max(axis=0)
    if (low < [-width, -height]).any() or (high > [2 * width, 2 * height]).any():
        raise UserError(
            f"points from {low.tolist()} to {high.tolist()} (x, y) in an image of {height}x{width}; they were drawn on "
            "an image of another size, or are in other units"
        )


def _centres(size: Size) -> Points:
    """(H, W, 2) x and y of the centre of each pixel."""
    rows, columns = np.indices(size)
    return np.asarray(np.stack([columns, rows], axis=-1) + 0.5, np.float64)


def _turn(degrees: float) -> Points:
    """Matrix (2, 2) that rotates rows of (x, y) clockwise on the screen."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
