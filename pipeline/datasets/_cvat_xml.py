"""CVAT's XML: its labels, images and shapes, and the pixels of a shape."""

from __future__ import annotations

from pathlib import Path
from xml.parsers import expat

from pipeline.datasets._palettes import Colour
from pipeline.datasets._runs import runs
from pipeline.datasets._shapes import Mask, Size, box, ellipse, placed, points, polygon, stroke, union
from pipeline.errors import UserError

Attributes = dict[str, str]
SHAPES = ("box", "polygon", "mask", "ellipse", "polyline", "points", "cuboid", "skeleton")


def parsed(file: Path) -> tuple[dict[str, Colour], list[tuple[Attributes, list[tuple[str, Attributes]]]]]:
    """Labels with colours, and images with the kinds and attributes of their shapes.

    Raises:
        UserError: unreadable, damaged, a document type (which may hide entities), or of a video.
    """
    labels: dict[str, Colour] = {}
    images: list[tuple[Attributes, list[tuple[str, Attributes]]]] = []
    path: list[str] = []
    text: list[str] = []

    def refuse(*_: object) -> None:
        raise UserError(f"{file}: has a document type, which CVAT does not write; export it again")

    def start(tag: str, attributes: Attributes) -> None:
        if tag == "track":
            raise UserError(f"{file}: tracks of a video; export the task as 'CVAT for images 1.1'")
        if tag == "image":
            images.append((attributes, []))
        elif images and path[-1] == "image" and tag in SHAPES:
            images[-1][1].append((tag, attributes))
        path.append(tag)
        text.clear()

    def end(tag: str) -> None:
        path.pop()
        value = "".join(text).strip()
        if path[-1:] == ["label"] and tag == "name":
            labels[value] = (0, 0, 0)
        elif path[-1:] == ["label"] and tag == "color" and labels and len(value) == 7:
            red, green, blue = bytes.fromhex(value[1:])
            labels[list(labels)[-1]] = red, green, blue

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    try:
        parser.Parse(file.read_bytes(), True)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except UserError:
        raise
    except (expat.ExpatError, ValueError, LookupError) as error:  # LookupError: an encoding
        raise UserError(f"{file}: not CVAT's XML ({error}); export it again") from error
    return labels, images


def drawn(kind: str, values: Attributes, size: Size, *, line_width: float | None) -> Mask:
    """(H, W) pixels of one shape. Raises UserError: of a kind without an area, or damaged."""
    number = {key: float(values[key]) for key in ("xtl", "ytl", "xbr", "ybr", "cx", "cy", "rx", "ry") if key in values}
    degrees = float(values.get("rotation", 0))
    if kind == "box":
        corners = points([number["xtl"], number["ytl"], number["xbr"], number["ybr"]], least=2)
        return box(corners, size, degrees=degrees)
    if kind == "ellipse":
        centre, radii = points([number["cx"], number["cy"], number["rx"], number["ry"]], least=2)
        return ellipse(centre, radii, size, degrees=degrees)
    if kind == "mask":
        left, top, width, height = (int(float(values[key])) for key in ("left", "top", "width", "height"))
        if not 0 < height <= size[0] or not 0 < width <= size[1]:
            raise UserError(f"a mask of {height}x{width} in an image of {size[0]}x{size[1]}")
        return placed(runs(values["rle"].split(","), (height, width), by_column=False), top=top, left=left, size=size)
    if kind in ("cuboid", "skeleton"):
        raise UserError(f"a {kind} has no area; draw a polygon")
    place = points([pair.split(",") for pair in values["points"].split(";")], least=1)
    if kind == "polygon":
        return polygon(place, size)
    if line_width is None:
        raise UserError(f"{kind} have no area; set datasets.cvat.line_width, in pixels, or draw a polygon")
    if kind == "points":
        return union((stroke(point[None], size, width=line_width) for point in place), size)
    return stroke(place, size, width=line_width)
