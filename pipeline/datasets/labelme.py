"""labelme: a JSON file for each image, with its shapes in the order in which they are painted.

Format: https://github.com/wkentaro/labelme, labelme/label_file.py and utils/shape.py. A shape is a polygon, a
rectangle, a circle (its centre and a point on the circle), a mask (PNG in base64, with the corners of its position) or,
if ``line_width`` is set, a line, linestrip or point. Coordinates refer to the displayed image, after its EXIF
orientation is applied. If the image file is missing, its copy in the JSON file (``imageData``) is read.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from pipeline.datasets._annotated import DAMAGES, Annotated, AnnotatedDataset, Order, Shape, labels_used
from pipeline.datasets._classes import Classes, Palette, Rest, named_classes
from pipeline.datasets._exports import inside, loaded
from pipeline.datasets._images import read_image
from pipeline.datasets._licence import UNSTATED, Stated
from pipeline.datasets._pairs import root_folder
from pipeline.datasets._patterns import compiled, find
from pipeline.datasets._shapes import Mask, Size, Width, box, ellipse, placed, points, polygon, stroke, union
from pipeline.errors import Problems, UserError
from pipeline.frames import Array

IGNORED, BACKGROUND = "__ignore__", "_background_"
STROKES = ("line", "linestrip", "point", "points")


class Labelme(AnnotatedDataset):
    """Images with labelme's JSON files.

    Args:
        root: root folder; patterns and lists are relative to it, and all files must be below it.
        annotations: pattern of the JSON files, as in folder.py.
        classes: class -> labels, or a list of labels.
        palette: one RGB colour per class; null: VOC's colours.
        ignore: labels whose pixels are ignored; null: ``__ignore__``.
        background: class of the pixels outside all shapes, and of ``_background_``; a new name gets train id 0. Null:
            they are ignored.
        rest: shapes of other labels: ``error`` (refuse them), ``ignore`` (their pixels are ignored), ``skip`` (they are
            not painted).
        order: which shape is on top: the later one in the file (``file``), or the smaller one (``area``); ``refuse``:
            overlaps of different classes are errors.
        line_width: width of lines and points in pixels; null: they are errors, because they have no area.
        lists, splits, shares, sequence, seed: as in folder.py.
        stated: the option ``licence``, see ``_licence.py``.

    Raises:
        UserError: ``root`` is not set, or the options contradict each other.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        annotations: str = "**/*.json",
        classes: Classes | None = None,
        palette: Palette | None = None,
        ignore: list[str] | None = None,
        background: str | None = None,
        rest: Rest = "error",
        order: Order = "file",
        line_width: Width | None = None,
        lists: dict[str, str] | None = None,
        splits: dict[str, list[str]] | None = None,
        shares: dict[str, float] | None = None,
        sequence: str | None = None,
        seed: int = 0,
        stated: Stated = UNSTATED,
    ) -> None:
        super().__init__("labelme", root_folder("labelme", root, holds="images and JSON files"), order=order)
        self.licence = stated.read()
        problems = Problems("datasets.labelme")
        pattern = compiled(annotations, problems, key="annotations")
        problems.raise_if_any()
        self.line_width = line_width
        files = find(self.root, pattern, self.wrong, suffixes=(".json",)).files
        if not files:
            self.wrong.append(f"{self.root}: no file matches {annotations!r}; correct datasets.labelme.annotations")
        samples: dict[str, Annotated] = {}
        for name, file in files.items():
            try:
                samples[name] = self._sample(file)
            except UserError as error:
                self.wrong.append(str(error))
            except DAMAGES as error:
                self.wrong.append(
                    f"{file}: not in labelme's format ({error!r}); save it again, or narrow the pattern "
                    "datasets.labelme.annotations"
                )
        used = [label for label in labels_used(samples.values()) if label not in (IGNORED, BACKGROUND)]
        self.coding = named_classes(
            "labelme",
            classes,
            palette=palette,
            ignore=[IGNORED] if ignore is None else ignore,
            background=background,
            rest=rest,
            file_labels=used,
            declared=False,
            unlabelled=BACKGROUND,
        )
        self.labels = self.coding.labels
        self._split(samples, lists=lists, splits=splits, shares=shares, sequence=sequence, seed=seed)
        self._finish()

    def _sample(self, file: Path) -> Annotated:
        data = loaded(file)
        folder = file.parent.relative_to(self.root).as_posix()
        try:
            image = inside(self.root, folder, data["imagePath"])
        except UserError as error:
            raise UserError(f"{file}: imagePath: {error}") from error
        height, width = data.get("imageHeight"), data.get("imageWidth")
        size = None if height is None or width is None else (int(height), int(width))
        return Annotated(image, str(file), size, [self._shape(shape) for shape in data["shapes"]])

    def read_frame(self, sample: Annotated, size: Size | None) -> Array:
        """The image; if its file is missing, the copy in the JSON file, if there is one."""
        embedded = None if sample.image.exists() else loaded(Path(sample.source)).get("imageData")
        if not embedded:
            return super().read_frame(sample, size)
        with TemporaryDirectory() as folder:
            file = Path(folder) / sample.image.name
            try:
                file.write_bytes(base64.b64decode(embedded, validate=True))
                return read_image(file, fits=size)
            except (TypeError, ValueError) as error:  # a UserError is a ValueError
                raise UserError(f"{sample.source}: imageData: {str(error).replace(f'{file}: ', '')}") from error

    def _shape(self, shape: dict[str, Any]) -> Shape:
        return Shape(str(shape["label"]), lambda size: drawn(shape, size, line_width=self.line_width))


def drawn(shape: dict[str, Any], size: Size, *, line_width: float | None) -> Mask:
    """Pixels (H, W) of one shape. Raises UserError: the shape is damaged, or its kind has no area."""
    kind = shape.get("shape_type") or "polygon"  # early versions of labelme had only polygons
    corner_points = points(shape.get("points"), least=1)
    if kind in STROKES:
        if line_width is None:
            raise UserError(f"a {kind} has no area; set datasets.labelme.line_width, in pixels, or draw a polygon")
        if kind == "points":
            return union((stroke(point[None], size, width=line_width) for point in corner_points), size)
        return stroke(corner_points, size, width=line_width)
    if kind == "polygon":
        return polygon(corner_points, size)
    if kind == "rectangle" and len(corner_points) in (2, 4):
        return box(corner_points, size) if len(corner_points) == 2 else polygon(corner_points, size)
    if kind == "circle" and len(corner_points) == 2:
        radius = float(np.hypot(*(corner_points[1] - corner_points[0])))
        return ellipse(corner_points[0], np.array([radius, radius]), size)
    if kind == "mask" and len(corner_points) == 2:
        return _mask(shape.get("mask"), corner_points.min(axis=0).round().astype(int).tolist(), size)
    allowed = f"polygon, rectangle, circle, mask, {', '.join(STROKES)}"
    raise UserError(f"a {kind} of {len(corner_points)} points; allowed: {allowed}; draw it as one of these")


def _mask(text: Any, corner: list[int], size: Size) -> Mask:
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as image:
            if image.height > size[0] or image.width > size[1]:
                raise UserError(f"a mask of {image.height}x{image.width} in an image of {size[0]}x{size[1]}")
            part = np.asarray(image.convert("L")) > 0
    except UserError:
        raise
    except Exception as error:  # Pillow does not document which exceptions damaged bytes raise
        raise UserError(f"a mask that is not a PNG in base64 ({error}); save it again") from error
    left, top = corner
    return placed(part, top=top, left=left, size=size)
