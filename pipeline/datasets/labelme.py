"""labelme: a JSON file for each image, with its shapes in the order in which they are painted.

Format: https://github.com/wkentaro/labelme, labelme/label_file.py and utils/shape.py. A shape is a polygon, a
rectangle, a circle (centre and a point of its rim), a mask (PNG in base64, with the corners of its place) or, where
``line_width`` is set, a line, linestrip or point. Coordinates are of the image as it is shown, after its EXIF
orientation. Where the file of an image is missing, its copy in the JSON file (``imageData``) is read.
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
from pipeline.datasets._pairs import root_folder
from pipeline.datasets._patterns import compiled, find
from pipeline.datasets._shapes import Mask, Size, Width, box, ellipse, placed, points, polygon, stroke, union
from pipeline.errors import Faults, UserError
from pipeline.frames import Array

IGNORED, BACKGROUND = "__ignore__", "_background_"
STROKES = ("line", "linestrip", "point", "points")


class Labelme(AnnotatedDataset):
    """Images with labelme's JSON files.

    Args:
        root: folder that patterns and lists count from; no file may lie outside.
        annotations: pattern of the JSON files, as in folder.py.
        classes: class -> labels, or a list of labels.
        palette: one RGB colour a class; null: VOC's colours.
        ignore: labels that count nowhere; null: ``__ignore__``.
        background: class of the pixels that no shape covers, and of ``_background_``; a new name comes first. Null:
            they are ignored.
        rest: shapes of other labels: ``fault``, ``ignore`` (their pixels count nowhere), ``skip`` (as if absent).
        order: which shape lies on top: the later in the file (``file``) or the smaller (``area``); ``refuse``: overlaps
            of different classes are faults.
        line_width: of lines and points in pixels; null: they are faults, because they have no area.
        lists, splits, shares, sequence, seed: as in folder.py.

    Raises:
        UserError: no root, or options that contradict each other.
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
        rest: Rest = "fault",
        order: Order = "file",
        line_width: Width | None = None,
        lists: dict[str, str] | None = None,
        splits: dict[str, list[str]] | None = None,
        shares: dict[str, float] | None = None,
        sequence: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__("labelme", root_folder("labelme", root, holds="images and JSON files"), order=order)
        faults = Faults("datasets.labelme")
        pattern = compiled(annotations, faults, key="annotations")
        faults.raise_if_any()
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
                self.wrong.append(f"{file}: not labelme's format ({error!r}); save it again, or narrow annotations")
        used = [label for label in labels_used(samples.values()) if label not in (IGNORED, BACKGROUND)]
        self.coding = named_classes(
            "labelme",
            classes,
            palette=palette,
            ignore=[IGNORED] if ignore is None else ignore,
            background=background,
            rest=rest,
            there=used,
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
        """The image; where its file is missing, the copy that the JSON file may hold."""
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
    """(H, W) pixels of one shape. Raises UserError: of a kind without an area, or damaged."""
    kind = shape.get("shape_type") or "polygon"  # early versions know no other
    place = points(shape.get("points"), least=1)
    if kind in STROKES:
        if line_width is None:
            raise UserError(f"a {kind} has no area; set datasets.labelme.line_width, in pixels, or draw a polygon")
        if kind == "points":
            return union((stroke(point[None], size, width=line_width) for point in place), size)
        return stroke(place, size, width=line_width)
    if kind == "polygon":
        return polygon(place, size)
    if kind == "rectangle" and len(place) in (2, 4):
        return box(place, size) if len(place) == 2 else polygon(place, size)
    if kind == "circle" and len(place) == 2:
        radius = float(np.hypot(*(place[1] - place[0])))
        return ellipse(place[0], np.array([radius, radius]), size)
    if kind == "mask" and len(place) == 2:
        return _mask(shape.get("mask"), place.min(axis=0).round().astype(int).tolist(), size)
    raise UserError(f"a {kind} of {len(place)} points; known: polygon, rectangle, circle, mask, {', '.join(STROKES)}")


def _mask(text: Any, corner: list[int], size: Size) -> Mask:
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as image:
            if image.height > size[0] or image.width > size[1]:
                raise UserError(f"a mask of {image.height}x{image.width} in an image of {size[0]}x{size[1]}")
            part = np.asarray(image.convert("L")) > 0
    except UserError:
        raise
    except Exception as error:  # Pillow has no closed list of what it raises on damaged bytes
        raise UserError(f"a mask that is no PNG in base64 ({error})") from error
    left, top = corner
    return placed(part, top=top, left=left, size=size)
