"""CVAT's XML file: its labels, images and shapes, and the pixels of each shape."""

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
    """Read labels with their colours, and images with the kinds and attributes of their shapes.

    Raises:
        UserError: the file is unreadable or damaged, has a document type (which may hide entities), or annotates a
            video.
    """
    labels: dict[str, Colour] = {}
    images: list[tuple[Attributes, list[tuple[str, Attributes]]]] = []
    path: list[str] = []
    text: list[str] = []

    def refuse(*_: object) -> None:
        raise UserError(f"{file}: has a document type (<!DOCTYPE), which CVAT never writes; export it again")

    def start(tag: str, attributes: Attributes) -> None:
        if tag == "track":
            raise UserError(f"{file}: has tracks of a video; export the task as 'CVAT for images 1.1'")
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
    except (expat.ExpatError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise UserError(f"{file}: not an XML file of CVAT ({error}); export it again") from error
    return labels, images


def drawn(kind: str, values: Attributes, size: Size, *, line_width: float | None) -> Mask:
    """Pixels (H, W) of one shape. Raises UserError: the shape is damaged, or its kind has no area."""
    numbers = {key: float(values[key]) for key in ("xtl", "ytl", "xbr", "ybr", "cx", "cy", "rx", "ry") if key in values}
    degrees = float(values.get("rotation", 0))
    if kind == "box":
        corners = points([numbers["xtl"], numbers["ytl"], numbers["xbr"], numbers["ybr"]], least=2)
        return box(corners, size, degrees=degrees)
    if kind == "ellipse":
        centre, radii = points([numbers["cx"], numbers["cy"], numbers["rx"], numbers["ry"]], least=2)
        return ellipse(centre, radii, size, degrees=degrees)
    if kind == "mask":
        left, top, width, height = (int(float(values[key])) for key in ("left", "top", "width", "height"))
        if not 0 < height <= size[0] or not 0 < width <= size[1]:
            raise UserError(f"a mask of {height}x{width} in an image of {size[0]}x{size[1]}")
        return placed(runs(values["rle"].split(","), (height, width), by_column=False), top=top, left=left, size=size)
    if kind in ("cuboid", "skeleton"):
        raise UserError(f"a {kind} has no area; draw a polygon")
    corner_points = points([pair.split(",") for pair in values["points"].split(";")], least=1)
    if kind == "polygon":
        return polygon(corner_points, size)
    if line_width is None:
        raise UserError(f"a {kind} shape has no area; set datasets.cvat.line_width, in pixels, or draw a polygon")
    if kind == "points":
        return union((stroke(point[None], size, width=line_width) for point in corner_points), size)
    return stroke(corner_points, size, width=line_width)
