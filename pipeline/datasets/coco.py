"""COCO annotations, instances (polygons and run lengths) or panoptic ("things and stuff"), read as semantic labels.

Format: https://cocodataset.org/#format-data. An instances file has polygons ``[[x, y, ...], ...]`` (an object is the
union of its polygons) and run lengths, as numbers or compressed; crowds (``iscrowd``) are painted as their class. A
panoptic file has ``segments_info`` and a folder of PNG files with the same name as the JSON file; the id of a pixel is
R + 256 G + 65536 B.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets._annotated import DAMAGES, Annotated, AnnotatedDataset, Order, Shape
from pipeline.datasets._classes import Classes, Palette, Rest, named_classes
from pipeline.datasets._exports import inside, loaded
from pipeline.datasets._images import read_mask
from pipeline.datasets._licence import UNSTATED, Stated
from pipeline.datasets._pairs import root_folder
from pipeline.datasets._runs import expanded, runs
from pipeline.datasets._shapes import Mask, Size, points, polygon, union
from pipeline.datasets._splits import SPLITS
from pipeline.errors import Problems, UserError
from pipeline.frames import Array

OFFICIAL = {"train": "annotations/instances_train2017.json", "val": "annotations/instances_val2017.json"}
OFFICIAL_IMAGES = {"train": "train2017", "val": "val2017"}


class Coco(AnnotatedDataset):
    """Images with COCO annotations.

    Args:
        root: root folder; all paths are relative to it.
        annotations: split -> JSON file, instances or panoptic; or one file, which the options below divide into splits.
        images: split -> folder; ``file_name`` is relative to it; or one folder for all splits.
        classes: class -> categories, or a list of categories; null: all categories, sorted by id.
        palette: one RGB colour per class; null: VOC's colours.
        ignore: categories whose pixels are ignored.
        background: class of the pixels outside all objects; a new name gets train id 0. Null: they are ignored.
        rest: objects of other categories: ``error`` (refuse them), ``ignore`` (their pixels are ignored), ``skip``
            (they are not painted).
        order: which object is on top: the smaller one (``area``), or the later one in the file (``file``);
            ``refuse``: overlaps of different classes are errors.
        lists, splits, shares, sequence, seed: as in folder.py; only for a single annotation file.
        stated: the option ``licence``, see ``_licence.py``.

    Raises:
        UserError: ``root`` is not set, or the options contradict each other.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        annotations: dict[str, str] | str | None = None,
        images: dict[str, str] | str | None = None,
        classes: Classes | None = None,
        palette: Palette | None = None,
        ignore: list[str] | None = None,
        background: str | None = None,
        rest: Rest = "error",
        order: Order = "area",
        lists: dict[str, str] | None = None,
        splits: dict[str, list[str]] | None = None,
        shares: dict[str, float] | None = None,
        sequence: str | None = None,
        seed: int = 0,
        stated: Stated = UNSTATED,
    ) -> None:
        super().__init__("coco", root_folder("coco", root, holds="annotations and images"), order=order)
        self.licence = stated.read()
        annotations = OFFICIAL if annotations is None else annotations
        images = (OFFICIAL_IMAGES if annotations == OFFICIAL else ".") if images is None else images
        files = {"": annotations} if isinstance(annotations, str) else annotations
        folders = dict.fromkeys(files, images) if isinstance(images, str) else images
        _check(files, folders)
        self.segments: dict[Path, dict[int, str]] = {}
        categories: dict[int, str] = {}
        by_split = {split: self._read(files[split], folders[split], categories) for split in files}
        if not categories:
            raise UserError(
                "datasets.coco: " + ("; ".join(self.wrong) or "the annotations have no category; export them again")
            )
        self.coding = named_classes(
            "coco",
            classes,
            palette=palette,
            ignore=ignore,
            background=background,
            rest=rest,
            file_labels=[categories[key] for key in sorted(categories)],
            declared=True,
        )
        self.labels = self.coding.labels
        for split, samples in by_split.items():
            if split:
                for name, sample in samples.items():
                    self._keep(split, name, sample)
            else:
                self._split(samples, lists=lists, splits=splits, shares=shares, sequence=sequence, seed=seed)
        self._finish()

    def _read(self, file: str, folder: str, categories: dict[int, str]) -> dict[str, Annotated]:
        """Samples of one file by name. Adds the categories of the file to ``categories``."""
        try:
            data = loaded(inside(self.root, ".", file))
            for category in data["categories"]:
                known = categories.setdefault(int(category["id"]), str(category["name"]))
                if known != category["name"]:
                    self.wrong.append(
                        f"{file}: category {category['id']} is {category['name']!r}, but {known!r} in another place; "
                        "export it again"
                    )
            images = {image["id"]: image for image in data["images"]}
            shapes: dict[Any, list[Shape]] = {}
            masks: dict[Any, Path] = {}
            for annotation in data["annotations"]:
                self._add(annotation, file, categories, shapes, masks)
            unknown = [key for key in (*shapes, *masks) if key not in images]
            if unknown:
                self.wrong.append(f"{file}: annotations of unknown images {unknown[:8]}; add them to images")
            return self._samples(file, folder, images, shapes, masks)
        except UserError as error:
            self.wrong.append(str(error))
        except DAMAGES as error:
            self.wrong.append(f"{file}: not in COCO's format ({error!r}); export it again")
        return {}

    def _add(
        self,
        annotation: dict[str, Any],
        file: str,
        categories: dict[int, str],
        shapes: dict[Any, list[Shape]],
        masks: dict[Any, Path],
    ) -> None:
        key = annotation["image_id"]
        if "segments_info" in annotation:
            mask = inside(self.root, file.removesuffix(".json"), annotation["file_name"])
            segments = {int(segment["id"]): int(segment["category_id"]) for segment in annotation["segments_info"]}
            unknown = sorted(set(segments.values()) - set(categories))
            self.segments[mask] = {
                segment: categories[kind] for segment, kind in segments.items() if kind in categories
            }
            masks[key] = mask
        else:
            kind = int(annotation["category_id"])
            unknown = [kind] if kind not in categories else []
            segmentation = annotation.get("segmentation")
            if kind in categories:
                shapes.setdefault(key, []).append(Shape(categories[kind], lambda size: drawn(segmentation, size)))
        if unknown:
            self.wrong.append(
                f"{file}: annotation of image {key}: unknown category ids {unknown}; add them to categories"
            )

    def _samples(
        self,
        file: str,
        folder: str,
        images: dict[Any, Any],
        shapes: dict[Any, list[Shape]],
        masks: dict[Any, Path],
    ) -> dict[str, Annotated]:
        samples: dict[str, Annotated] = {}
        for key, image in images.items():
            try:
                path = inside(self.root, folder, image["file_name"])
            except UserError as error:
                self.wrong.append(f"{file}: image {key}: {error}")
                continue
            name = str(Path(image["file_name"].replace("\\", "/")).with_suffix(""))
            if name in samples:
                self.wrong.append(f"{file}: image {key} and another image are both {name}; keep one of the two")
            if masks and key not in masks:
                self.wrong.append(f"{file}: image {key} ({image['file_name']}) has no panoptic annotation; remove it")
            samples[name] = Annotated(
                path,
                f"{file}: {image['file_name']}",
                (int(image["height"]), int(image["width"])),
                shapes.get(key, ()),
                masks.get(key),
                list(self.segments[masks[key]].values()) if key in masks else (),
            )
        return samples

    def read_label(self, sample: Annotated, mask: Path) -> Array:
        """Train ids (H, W) uint8 of a panoptic PNG file."""
        values = read_mask(mask).values
        if values.ndim != 3:
            raise UserError(f"{mask}: one channel; allowed: RGB, with ids as R + 256 G + 65536 B; export it again")
        packed = values.astype(np.int64) @ np.array([1, 256, 65536])
        ids, place = np.unique(packed, return_inverse=True)
        segments = {0: None, **self.segments[mask]}
        unknown = [int(value) for value in ids if int(value) not in segments]
        if unknown:
            raise UserError(f"{mask}: ids {unknown[:8]} are not in segments_info; export the mask and the JSON again")
        table = [self.coding.train_id(segments[int(value)]) for value in ids]
        return np.array(table, np.uint8)[place.reshape(packed.shape)]


def _check(files: dict[str, str], folders: dict[str, str]) -> None:
    problems = Problems("datasets.coco")
    if set(files) != {""} and not {"train", "val"} <= set(files) <= set(SPLITS):
        problems.add(f"annotations: got {sorted(files)}; allowed: train and val, and test if you have it; or one file")
    if not set(files) <= set(folders):
        problems.add(f"images: got {sorted(folders)}; allowed: a folder for each of {sorted(files)}, or one folder")
    problems.raise_if_any(advice="Correct these values under datasets.coco in params.yaml.")


def drawn(segmentation: Any, size: Size) -> Mask:
    """Pixels (H, W) of a ``segmentation``: polygons, or run lengths as numbers or compressed.

    Raises:
        UserError: the object has only a box, or its run lengths are for an image of another size.
    """
    if isinstance(segmentation, dict):
        counts, run_size = segmentation["counts"], segmentation["size"]
        if list(run_size) != list(size):
            raise UserError(
                f"run lengths for an image of {list(run_size)} (height, width), but the image is {list(size)}; "
                "export it again"
            )
        return runs(expanded(counts) if isinstance(counts, str) else counts, size, by_column=True)
    if not isinstance(segmentation, list) or not segmentation:
        raise UserError("no segmentation, only a box; draw the outline of the object, or remove it")
    return union((polygon(points(outline, least=3), size) for outline in segmentation), size)
