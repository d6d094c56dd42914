"""Results of Label Studio: their kinds, labels and pixels, and the image file that the data of a task refer to."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from pipeline.datasets._images import SUFFIXES, read_mask
from pipeline.datasets._runs import brush
from pipeline.datasets._shapes import Mask, Size, box, ellipse, points, polygon
from pipeline.errors import UserError

KINDS = ("brush", "polygon", "rectangle", "ellipse")
NO_SHAPES = (
    "labels", "choices", "textarea", "rating", "number", "datetime", "taxonomy", "relation", "pairwise", "ranker",
)  # fmt: skip
LABELS = "labels"


def kind_of(result: dict[str, Any]) -> str | None:
    """The geometry of a result; None: it has none, for example choices and texts.

    Raises:
        UserError: segpress does not read this type of result.
    """
    result_type = str(result.get("type"))
    kind = result_type.removesuffix(LABELS)
    if kind not in KINDS and result_type not in NO_SHAPES:
        raise UserError(f"a result of type {result_type}; allowed: {', '.join(KINDS)}; draw it as one of these")
    return kind if kind in KINDS else None


def labels_of(result: dict[str, Any]) -> list[str]:
    """The labels of a result; they are stored under the name of its type."""
    value = result.get("value", {})
    return [str(label) for label in value.get(str(result.get("type"))) or value.get(LABELS) or ()]


def drawn(kind: str, value: dict[str, Any], size: Size) -> Mask:
    """Pixels (H, W) of a geometry whose coordinates are in percent of the image, or of a brush."""
    if kind == "brush":
        if value.get("format") != "rle":
            raise UserError(f"a brush in the format {value.get('format')!r}; allowed: rle; export it again")
        return brush(value["rle"], size)
    scale = np.array([size[1], size[0]]) / 100
    if kind == "polygon":
        return polygon(points(value["points"], least=3) * scale, size)
    start = points([value["x"], value["y"]], least=1)[0] * scale
    degrees = float(value.get("rotation") or 0)
    if kind == "ellipse":
        radii = points([value["radiusX"], value["radiusY"]], least=1)[0] * scale
        return ellipse(start, radii, size, degrees=degrees)
    corner = start + points([value["width"], value["height"]], least=1)[0] * scale
    return box(np.stack([start, corner]), size, degrees=degrees, pivot=start)


def opened(file: Path, size: Size) -> Mask:
    """Pixels (H, W) of a brush that was exported as a PNG file: the pixels with more than half of the opacity."""
    values = read_mask(file).values
    if values.shape != size:
        raise UserError(
            f"{file}: shape {list(values.shape)}; allowed: one channel of {list(size)}, the size of its image"
        )
    return np.asarray(values > values.max(initial=1) / 2)


def image_path(value: object) -> PurePosixPath | None:
    """The path in a value of a task's data: an upload, a local file (``?d=``) or a URL; None: it is not an image."""
    if not isinstance(value, str):
        return None
    parts = urlsplit(value.replace("\\", "/"))
    local = parse_qs(parts.query).get("d")
    path = PurePosixPath(local[0] if local else unquote(parts.path))
    return path if path.suffix.lower() in SUFFIXES else None


def common_tail(one: Path, other: PurePosixPath) -> int:
    """How many parts at the end of two paths are equal."""
    count = 0
    for left, right in zip(reversed(one.parts), reversed(other.parts), strict=False):
        if left != right:
            break
        count += 1
    return count
