"""Data sets of images with labelled shapes: the code that the plugins of annotation tools share.

A plugin finds the images and their shapes. This file handles classes and splits, paints the shapes and checks labels.

A shape has a *label*: the name that the annotator chose. ``_classes.py`` maps labels to classes. Shapes are painted on
top of each other, in the order that the option ``order`` sets. Pixels outside all shapes belong to the class
``background``, or are ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.datasets._base import Dataset
from pipeline.datasets._classes import ClassCoding
from pipeline.datasets._division import Division, by_lists
from pipeline.datasets._images import read_image
from pipeline.datasets._pairs import size as size_of
from pipeline.datasets._shapes import Mask, Size
from pipeline.errors import Problems, UserError
from pipeline.frames import Array

Order = Literal["file", "area", "refuse"]
#: Exceptions that Python raises when a value of an annotation file has an unexpected type.
DAMAGES = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


@dataclass(frozen=True)
class Shape:
    """One labelled shape.

    Args:
        label: name that the annotator chose.
        draw: function from (height, width) of the image to the pixels (H, W) of the shape; raises UserError, or one of
            ``DAMAGES``.
        level: with ``order: file``, shapes of a higher level cover shapes of a lower level.
    """

    label: str
    draw: Callable[[Size], Mask]
    level: int = 0


@dataclass(frozen=True)
class Annotated:
    """An image with its annotation.

    Args:
        image: the image file.
        source: the annotation's file and entry, for messages.
        size: (height, width) from the annotation; None: the annotation has no size.
        shapes: in the order of the annotation file.
        mask: mask file, if the tool wrote one; then there are no shapes.
        segments: labels of the segments of that mask, if the tool lists them.
    """

    image: Path
    source: str
    size: Size | None = None
    shapes: Sequence[Shape] = ()
    mask: Path | None = None
    segments: Sequence[str] = ()


class AnnotatedDataset(Dataset):
    """Base of the plugins that read the exports of annotation tools.

    A subclass appends errors in its files to ``wrong``, sets ``labels`` and ``coding``, fills ``samples`` with
    :meth:`_keep` or :meth:`_split`, and then calls :meth:`_finish`.
    """

    coding: ClassCoding

    def __init__(self, plugin: str, root: Path, *, order: Order = "file") -> None:
        self.plugin = plugin
        self.root = root
        self.order = order
        self.samples: dict[str, dict[str, Annotated]] = {}
        self.wrong: list[str] = []
        self.notes: list[str] = []

    def splits(self) -> dict[str, Sequence[str]]:
        return {split: list(samples) for split, samples in self.samples.items()}

    def problems(self) -> Sequence[str]:
        return tuple(self.wrong)

    def warnings(self) -> Sequence[str]:
        return (*self.coding.warnings, *self.notes)

    def image_file(self, split: str, name: str) -> Path | None:
        return self.samples[split][name].image

    def read(self, split: str, name: str) -> tuple[Array, Array]:
        if name not in self.samples.get(split, {}):
            raise UserError(f"{self.plugin} has no sample {name!r} in {split!r}")
        sample = self.samples[split][name]
        errors: list[str] = []
        label = frame = None
        size = sample.size
        if sample.mask is not None:
            try:
                label = self.read_label(sample, sample.mask)
                size = label.shape[0], label.shape[1]
            except UserError as error:
                errors.append(str(error))
        try:
            frame = self.read_frame(sample, size)
        except UserError as error:
            errors.append(str(error))
        if frame is not None and size is not None and frame.shape[:2] != size:
            where = sample.mask or sample.source
            errors.append(
                f"{where}: the annotation is for an image of {size[0]}x{size[1]}; "
                f"{sample.image.name} is {size_of(frame)}"
            )
        if not errors and frame is not None:
            label = self._painted(sample, (frame.shape[0], frame.shape[1]), errors) if label is None else label
        if errors or frame is None or label is None:
            raise UserError("; and ".join(errors))
        return frame, label

    def read_frame(self, sample: Annotated, size: Size | None) -> Array:
        """The image (H, W, 3) BGR uint8, rotated by its EXIF orientation unless only the stored pixels fit ``size``."""
        return read_image(sample.image, fits=size)

    def read_label(self, sample: Annotated, mask: Path) -> Array:
        """Train ids (H, W) uint8 of a mask file. Plugins of tools that export masks override this method."""
        raise UserError(f"{mask}: {self.plugin} reads annotations, not mask files; for masks use the data set folder")

    def _painted(self, sample: Annotated, size: Size, errors: list[str]) -> Array:
        """Train ids (H, W) uint8 of the shapes. Appends errors of the shapes to ``errors``."""
        label = np.full(size, self.coding.unlabelled, np.uint8)
        covered = np.zeros(size, bool)
        for shape in self._in_order(sample, size, errors):
            mask, train = shape.draw(size), self.coding.train_id(shape.label)
            clash = mask & covered & (label != train)
            if self.order == "refuse" and clash.any():
                errors.append(
                    f"{sample.source}: {int(clash.sum())} pixels of a shape ({shape.label}) also belong to another "
                    f"class; correct the shapes, or set datasets.{self.plugin}.order to file or area"
                )
            label[mask] = train
            covered |= mask
        return label

    def _in_order(self, sample: Annotated, size: Size, errors: list[str]) -> list[Shape]:
        """The shapes that are painted and can be drawn, from bottom to top. Only one mask at a time is in memory."""
        areas: list[tuple[int, Shape]] = []
        for number, shape in enumerate(sample.shapes, start=1):
            if not self.coding.painted(shape.label):
                continue
            try:
                areas.append((int(shape.draw(size).sum()), shape))
            except DAMAGES as error:  # a UserError is a ValueError
                reason = error if isinstance(error, UserError) else f"damaged ({error!r}); export it again"
                errors.append(f"{sample.source}: shape {number} ({shape.label}): {reason}")
        areas.sort(key=lambda pair: -pair[0] if self.order == "area" else pair[1].level)
        return [shape for _, shape in areas]

    def _keep(self, split: str, name: str, sample: Annotated) -> None:
        """Add a sample to a split; ``/`` in its name becomes ``__``."""
        flat = name.replace("/", "__")
        if flat in self.samples.setdefault(split, {}):
            self.wrong.append(f"{sample.source}: {split} already has a sample {flat}; rename one of the images")
        self.samples[split].setdefault(flat, sample)

    def _split(
        self,
        samples: Mapping[str, Annotated],
        *,
        lists: dict[str, str] | None,
        splits: dict[str, list[str]] | None,
        shares: dict[str, float] | None,
        sequence: str | None,
        seed: int,
    ) -> None:
        """Divide the samples of a tool without splits. Raises UserError if the options contradict each other."""
        problems = Problems(f"datasets.{self.plugin}")
        division = Division(self.plugin, splits=splits, shares=shares, sequence=sequence, seed=seed)
        division.check(problems, lists=lists)
        problems.raise_if_any(advice=f"Correct these values under datasets.{self.plugin} in params.yaml.")
        images = {name: sample.image for name, sample in samples.items()}
        if lists is None:
            members = division.of(images, self.root, self.wrong)
        else:
            members = by_lists(lists, images, self.root, self.wrong)
        for split, names in members.items():
            self.samples.setdefault(split, {})
            for name in names:
                self._keep(split, name, samples[name])

    def _finish(self) -> None:
        """Check the labels of all samples, and note how many images have no shape."""
        used: dict[str, Counter[str]] = {}
        samples = [sample for split in self.samples.values() for sample in split.values()]
        for sample in samples:
            for label in (*(shape.label for shape in sample.shapes), *sample.segments):
                used.setdefault(label, Counter())[sample.source] += 1
        self.wrong += self.coding.unknown(
            {label: f"{places.total()} shapes, the first in {next(iter(places))}" for label, places in used.items()}
        )
        empty = [sample.source for sample in samples if not sample.shapes and sample.mask is None]
        if empty:
            class_name = self.coding.class_name(self.coding.unlabelled)
            self.notes.append(
                f"{len(empty)} images have no shape, for example {empty[0]}; all their pixels are {class_name}"
            )


def labels_used(samples: Iterable[Annotated]) -> list[str]:
    """All labels that shapes have, sorted."""
    return sorted({shape.label for sample in samples for shape in sample.shapes})
