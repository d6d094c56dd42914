"""Shapes of annotation tools -> masks: the one rasteriser that their plugins share.

Coordinates count from the top left corner of the top left pixel, x to the right and y down; column 0 covers x 0..1.
A pixel belongs to a shape when its centre lies inside. Polygons are filled by COCO's own code (pycocotools), which
rounds coordinates to a fifth of a pixel; so a mask is what the COCO API gives.
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
        least: how many points there must be.

    Raises:
        UserError: no numbers, an odd number of them, not finite, too few points.
    """
    try:
        found = np.asarray(values, np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        raise UserError("points must be pairs of numbers") from None
    if len(found) < least or not np.isfinite(found).all():
        raise UserError(f"{len(found)} points; allowed: {least} or more, finite")
    return found


def polygon(outline: Points, size: Size) -> Mask:
    """(H, W) pixels inside a polygon; where it crosses itself, even and odd alternate.

    Raises:
        UserError: fewer than 3 points; all in the first pixel, which means shares of the size; or a point further
            outside than the image is long, which means another image.
    """
    if len(outline) < 3:
        raise UserError(f"a polygon of {len(outline)} points; allowed: 3 or more")
    if min(size) > 2 and outline.min() >= 0 and outline.max() <= 1:
        raise UserError(
            "all points lie between 0 and 1, within the first pixel; if they are shares of width and height, export "
            "them in pixels"
        )
    _check_near(outline, size)
    return np.asarray(coco.decode(coco.frPyObjects([outline.ravel().tolist()], *size))[..., 0], bool)


def union(masks: Iterable[Mask], size: Size) -> Mask:
    """(H, W) pixels that any of the masks has."""
    found = np.zeros(size, bool)
    for mask in masks:
        found |= mask
    return found


def box(corners: Points, size: Size, *, degrees: float = 0.0, pivot: Points | None = None) -> Mask:
    """(H, W) pixels of a rectangle from two opposite corners (2, 2), turned clockwise about ``pivot`` or its centre."""
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    outline = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    centre = outline.mean(axis=0) if pivot is None else pivot
    return polygon(centre + (outline - centre) @ _turn(degrees), size)


def ellipse(centre: Points, radii: Points, size: Size, *, degrees: float = 0.0) -> Mask:
    """(H, W) pixels of an ellipse with half axes ``radii``, turned clockwise about its centre."""
    if (radii <= 0).any():
        raise UserError(f"an ellipse with radii {radii.tolist()}; allowed: more than 0")
    _check_near(centre[None], size)
    away = (_centres(size) - centre) @ _turn(degrees).T / radii
    return np.asarray((away**2).sum(axis=-1) <= 1)


def stroke(line: Points, size: Size, *, width: float) -> Mask:
    """(H, W) pixels not further than half a ``width`` from a line through the points; of one point: a disc."""
    _check_near(line, size)
    found = np.zeros(size, bool)
    centres = _centres(size)
    for start, end in zip(line[:-1] if len(line) > 1 else line, line[1:] if len(line) > 1 else line, strict=True):
        along = end - start
        length = float(along @ along)
        share = np.clip((centres - start) @ along / length, 0, 1) if length else np.zeros(size)
        found |= ((centres - start - share[..., None] * along) ** 2).sum(axis=-1) <= (width / 2) ** 2
    return found


def placed(part: Mask, *, top: int, left: int, size: Size) -> Mask:
    """(H, W) mask with a smaller one at its place.

    Raises:
        UserError: it does not lie inside the image.
    """
    bottom, right = top + part.shape[0], left + part.shape[1]
    if min(top, left) < 0 or bottom > size[0] or right > size[1]:
        where = f"rows {top}..{bottom - 1} and columns {left}..{right - 1}"
        raise UserError(f"a mask of {where} in an image of {size[0]}x{size[1]}")
    found = np.zeros(size, bool)
    found[top:bottom, left:right] = part
    return found


def _check_near(outline: Points, size: Size) -> None:
    """Raise UserError for points far outside: the annotation belongs to another image, or is in other units."""
    height, width = size
    low, high = outline.min(axis=0), outline.max(axis=0)
    if (low < [-width, -height]).any() or (high > [2 * width, 2 * height]).any():
        raise UserError(
            f"points from {low.tolist()} to {high.tolist()} (x, y) in an image of {height}x{width}; they belong to "
            "another size of the image"
        )


def _centres(size: Size) -> Points:
    """(H, W, 2) x and y of the centre of each pixel."""
    rows, columns = np.indices(size)
    return np.asarray(np.stack([columns, rows], axis=-1) + 0.5, np.float64)


def _turn(degrees: float) -> Points:
    """(2, 2) matrix that turns rows of x, y clockwise on the screen."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
