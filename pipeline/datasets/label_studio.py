"""Label Studio: its JSON export with brushes, polygons, rectangles and ellipses; or brushes as PNG files.

Formats: https://labelstud.io/guide/task_format and labelstud.io/tags. Coordinates are percentages of the displayed
image, after its EXIF orientation is applied. A brush is in the JSON file (``rle``); or, if ``masks`` names the folder
of the export "Brush labels to PNG", in a file such as ``task-1-annotation-2-by-user-tag-Car-0.png``. The PNG export
does not name the image of a task, so the JSON file is needed too.

If a task has several annotations, segpress uses the one that is marked as ground truth, or else the last one. It does
not use cancelled annotations. A task without annotations is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.datasets._annotated import DAMAGES, Annotated, AnnotatedDataset, Order, Shape, labels_used
from pipeline.datasets._classes import Classes, Palette, Rest, named_classes
from pipeline.datasets._exports import inside, loaded
from pipeline.datasets._label_studio_shapes import common_tail, drawn, image_path, kind_of, labels_of, opened
from pipeline.datasets._licence import UNSTATED, Stated
from pipeline.datasets._pairs import root_folder
from pipeline.datasets._patterns import compiled, find
from pipeline.datasets._shapes import Mask, Size
from pipeline.errors import Problems, UserError

UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")  # Label Studio adds this prefix to the name of an uploaded file
BRUSH = re.compile(r"task-(\d+)-annotation-(\d+)-by-[^-]*-[^-]+-(.+)-\d+")


class LabelStudio(AnnotatedDataset):
    """Images annotated with Label Studio.

    Args:
        root: root folder; all paths are relative to it.
        annotations: file of the JSON export.
        images: folder in which the images are searched by name.
        masks: folder of brushes as PNG files; null: use the brushes in the JSON file.
        classes: class -> labels, or a list of labels.
        palette: one RGB colour per class; null: VOC's colours.
        ignore: labels whose pixels are ignored.
        background: class of the pixels outside all shapes; a new name gets train id 0. Null: they are ignored.
        rest: shapes of other labels: ``error`` (refuse them), ``ignore`` (their pixels are ignored), ``skip`` (they are
            not painted).
        order: which shape is on top: the later one in the file (``file``), or the smaller one (``area``); ``refuse``:
            overlaps of different classes are errors.
        lists, splits, shares, sequence, seed: as in folder.py.
        stated: the option ``licence``, see ``_licence.py``.

    Raises:
        UserError: ``root`` is not set, or the options contradict each other.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        annotations: str = "annotations.json",
        images: str = ".",
        masks: str | None = None,
        classes: Classes | None = None,
        palette: Palette | None = None,
        ignore: list[str] | None = None,
        background: str | None = None,
        rest: Rest = "error",
        order: Order = "file",
        lists: dict[str, str] | None = None,
        splits: dict[str, list[str]] | None = None,
        shares: dict[str, float] | None = None,
        sequence: str | None = None,
        seed: int = 0,
        stated: Stated = UNSTATED,
    ) -> None:
        super().__init__(
            "label_studio", root_folder("label_studio", root, holds="images and the JSON export"), order=order
        )
        self.licence = stated.read()
        all_images = compiled("**/*", Problems("label_studio"), key="images")
        self.export = annotations
        self.files: dict[str, list[Path]] = {}
        for path in find(inside(self.root, ".", images), all_images, []).files.values():
            self.files.setdefault(path.name, []).append(path)
        self.brushes = None if masks is None else self._brushes(inside(self.root, ".", masks))
        samples: dict[str, Annotated] = {}
        left_out = 0
        for task in self._tasks(annotations):
            try:
                sample = self._sample(task)
            except DAMAGES as error:  # a UserError is a ValueError
                damage = f"not in Label Studio's format ({error!r}); export it again"
                reason = error if isinstance(error, UserError) else damage
                self.wrong.append(f"{annotations}: {_named(task)}: {reason}")
                continue
            if sample is None:
                left_out += 1
                continue
            name = str(sample.image.relative_to(self.root).with_suffix("").as_posix())
            if name in samples:
                self.wrong.append(
                    f"{annotations}: {_named(task)}: {name} is also the image of another task; remove one of the tasks"
                )
            samples[name] = sample
        if left_out:
            self.notes.append(f"{left_out} tasks without an annotation are left out")
        self.coding = named_classes(
            "label_studio",
            classes,
            palette=palette,
            ignore=ignore,
            background=background,
            rest=rest,
            file_labels=labels_used(samples.values()),
            declared=False,
        )
        self.labels = self.coding.labels
        self._split(samples, lists=lists, splits=splits, shares=shares, sequence=sequence, seed=seed)
        self._finish()

    def _tasks(self, annotations: str) -> list[Any]:
        try:
            tasks = loaded(inside(self.root, ".", annotations))
        except UserError as error:
            self.wrong.append(str(error))
            return []
        if not isinstance(tasks, list) or not tasks:
            self.wrong.append(f"{annotations}: not a list of tasks; export the project as JSON")
            return []
        return tasks

    def _sample(self, task: dict[str, Any]) -> Annotated | None:
        """Image and shapes of a task; None: the task has no annotation."""
        annotations = task.get("annotations", task.get("completions"))
        if annotations is None:
            raise UserError("no annotations; export as JSON, not as JSON-MIN")
        valid = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
        if not valid:
            return None
        chosen = next((annotation for annotation in valid if annotation.get("ground_truth")), valid[-1])
        image = self._image(task["data"])
        regions: dict[str, list[dict[str, Any]]] = {}
        for number, result in enumerate(chosen["result"]):
            if kind_of(result) is not None or result.get("type") == "labels":
                regions.setdefault(str(result.get("id", number)), []).append(result)
        sizes = {
            (int(part["original_height"]), int(part["original_width"])) for parts in regions.values() for part in parts
        }
        if len(sizes) > 1:
            raise UserError(f"its shapes are for images of {sorted(sizes)} (height, width); export it again")
        shapes = [shape for parts in regions.values() for shape in self._shapes(parts)]
        if self.brushes is not None:
            shapes += self.brushes.get((str(task["id"]), str(chosen["id"])), [])
        return Annotated(image, f"{self.export}: {_named(task)}", next(iter(sizes), None), shapes)

    def _shapes(self, parts: list[dict[str, Any]]) -> Iterator[Shape]:
        """The shape of one region. Its geometry and its label may be in two different results."""
        labels = [label for part in parts for label in labels_of(part)]
        for part in parts:
            kind = kind_of(part)
            if kind is None or (kind == "brush" and self.brushes is not None):
                continue
            if part.get("image_rotation"):
                raise UserError(
                    f"image_rotation {part['image_rotation']}; allowed: 0; rotate the image file and annotate it again"
                )
            if len(labels) != 1:
                raise UserError(f"a {kind} with labels {labels}; allowed: one label")
            yield Shape(str(labels[0]), _drawing(kind, part["value"]))
            return

    def _image(self, data: dict[str, Any]) -> Path:
        """The image file that the data of a task name: an upload, a local file or a URL."""
        paths = [path for path in map(image_path, data.values()) if path is not None]
        if len(paths) != 1:
            raise UserError(f"data names {len(paths)} images; allowed: one image")
        (path,) = paths
        match = UPLOADED.fullmatch(path.name)
        candidates = self.files.get(path.name) or self.files.get(match[1] if match else "", [])
        if len(candidates) > 1:  # the same name in several folders: the file with the longest common path
            tails = [common_tail(file, path) for file in candidates]
            candidates = [file for file, tail in zip(candidates, tails, strict=True) if tail == max(tails)]
        if len(candidates) != 1:
            count = f"{len(candidates)} images with this name" if candidates else "no such image"
            raise UserError(f"{path}: {count} below {self.root}; correct datasets.label_studio.images")
        return candidates[0]

    def _brushes(self, folder: Path) -> dict[tuple[str, str], list[Shape]]:
        """Brushes in PNG files, by task and annotation, sorted by file name."""
        brushes: dict[tuple[str, str], list[Shape]] = {}
        files = sorted(folder.glob("*.png"))
        for file in files:
            match = BRUSH.fullmatch(file.stem)
            if match is None:
                self.wrong.append(
                    f"{file}: unknown name; allowed: task-ID-annotation-ID-by-USER-TAG-LABEL-NUMBER.png; remove it"
                )
                continue
            task, annotation, label = match.groups()
            brushes.setdefault((task, annotation), []).append(Shape(label, _opening(file)))
        if not files:
            self.wrong.append(f"{folder}: no PNG file; correct datasets.label_studio.masks")
        return brushes


def _drawing(kind: str, value: dict[str, Any]) -> Callable[[Size], Mask]:
    return lambda size: drawn(kind, value, size)


def _opening(file: Path) -> Callable[[Size], Mask]:
    return lambda size: opened(file, size)


def _named(task: Any) -> str:
    return f"task {task.get('id') if isinstance(task, dict) else task!r}"
