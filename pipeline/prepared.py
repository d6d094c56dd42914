"""The prepared data set: `prepare` writes it; training, calibration, checks and the report read it.

Files: ``<split>/images/<name>.png`` or ``.jpg`` (OpenCV reads them), ``<split>/labels/<name>.png`` (train ids), and
meta.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline import artifact
from pipeline.errors import Problems, UserError, closest
from pipeline.frames import Array, digest, read_frame, read_label_map
from pipeline.labels import LabelSpec

PNG, JPEG = ".png", ".jpg"  # suffixes of images; label maps are always PNG
UNLABELLED = "unlabelled"  # the only split of the frames without labels


@dataclass(frozen=True)
class Split:
    """One split of a prepared data set; ``split[i]`` is ``(frame BGR (H, W, 3), train ids (H, W))``.

    Args:
        root: folder of the data set.
        names: of its samples.
        jpegs: names of the samples whose image is a JPEG; the others are PNG.
        ignored: id of all pixels, if the frames have no labels; None: each frame has a label file.
    """

    root: Path
    name: str
    names: Sequence[str]
    jpegs: frozenset[str] = frozenset()
    ignored: int | None = None

    @property
    def stage(self) -> str:
        """The stage that wrote it."""
        return "prepare" if self.ignored is None else "prepare_unlabelled"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        return self.read(index)

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        return (self[index] for index in range(len(self)))

    def image_file(self, index: int) -> Path:
        name = self.names[index]
        return self.root / self.name / "images" / f"{name}{JPEG if name in self.jpegs else PNG}"

    def read(self, index: int) -> tuple[Array, Array]:
        """Decode one sample, whatever a subclass keeps. Raises UserError: a file is missing or damaged."""
        frame = Split.frame(self, index)
        if self.ignored is not None:
            return frame, np.full(frame.shape[:2], self.ignored, np.uint8)
        return frame, Split.label(self, index)

    def frame(self, index: int) -> Array:
        return read_frame(self.image_file(index))

    def label(self, index: int) -> Array:
        if self.ignored is not None:
            return self[index][1]
        return read_label_map(self.root / self.name / "labels" / f"{self.names[index]}.png")


class Prepared:
    """A prepared data set on disk.

    Raises:
        UserError: the folder is not a data set artifact, some of its files are missing, or this machine decodes JPEG
            to other pixels than the one that prepared the data set.
    """

    kind: ClassVar[str] = "dataset"  # of the artifact
    stage: ClassVar[str] = "prepare"  # that writes it

    def __init__(self, path: Path) -> None:
        self.artifact = artifact.load(path, kind=self.kind, verify=False)
        if not isinstance(self.artifact.meta.get("splits"), dict):
            raise UserError(f"{path / artifact.META}: splits is missing or invalid; {artifact.AGAIN}")
        self.splits: dict[str, list[str]] = self.artifact.meta["splits"]
        self._check_jpeg()

    @property
    def labels(self) -> LabelSpec:
        return self.artifact.labels

    @property
    def facts_hash(self) -> str:
        """sha256 of meta.json. It covers the hashes of the files, the order of the samples and the classes."""
        return artifact.sha256(self.artifact.path / artifact.META)

    @property
    def name(self) -> str:
        return str(self.artifact.meta["dataset"])

    def class_pixels(self, split: str) -> list[int]:
        """Number of pixels of each class in a split, as `prepare` counted them."""
        pixels = self.artifact.meta.get("class_pixels", {}).get(split)
        if pixels is None:
            raise UserError(f"{self.artifact.path / artifact.META}: class_pixels has no {split}; {artifact.AGAIN}")
        return [int(count) for count in pixels]

    def require_classes(self) -> None:
        """Refuse a data set with too few classes to train on, by the pixel counts in meta.json, if it has them.

        Raises:
            UserError: train or val has pixels of fewer than two classes.
        """
        problems = Problems(f"data set {self.artifact.path}")
        for split in ("train", "val"):
            known = split in self.artifact.meta.get("class_pixels", {})
            if known and (shortage := self.labels.shortage(split, self.class_pixels(split))):
                problems.add(shortage)
        problems.raise_if_any(advice="Correct the labels or the classes, then run: dvc repro -f prepare")

    def split(self, name: str) -> Split:
        if name not in self.splits:
            raise UserError(f"{self.artifact.path} has no split '{name}'; {closest(name, self.splits)}")
        folder = f"{name}/images/"
        jpegs = frozenset(
            file.removeprefix(folder).removesuffix(JPEG)
            for file in self.artifact.meta["files"]
            if file.startswith(folder) and file.endswith(JPEG)
        )
        return Split(root=self.artifact.path, name=name, names=self.splits[name], jpegs=jpegs)

    def _check_jpeg(self) -> None:
        """Refuse a data set with JPEGs that this machine decodes otherwise: every figure would be of other pixels."""
        expected = self.artifact.meta.get("jpeg")
        if expected is None:
            return
        file = self.artifact.file(expected["file"])
        if digest(read_frame(file)).hex() != expected["pixels"]:
            raise UserError(
                f"{file}: OpenCV decodes this JPEG to other pixels than on the machine that prepared the data set; "
                f"install the OpenCV of constraints.txt, or prepare the data set here: dvc repro -f {self.stage}"
            )


class Unlabelled(Prepared):
    """The frames without labels that ``prepare_unlabelled`` wrote. There are none if params.yaml names no sources:
    then ``len()`` is 0.

    A split for :func:`pipeline.training.store.open_split` is ``split("unlabelled")``: all pixels have the ignored id.
    """

    kind = "unlabelled"
    stage = "prepare_unlabelled"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def names(self) -> list[str]:
        return self.splits[UNLABELLED]

    def split(self, name: str = UNLABELLED) -> Split:
        return replace(super().split(name), ignored=self.labels.ignore_index)


def jpeg_facts(root: Path, files: Iterable[str]) -> dict[str, Any]:
    """``jpeg`` of meta.json, if some images are JPEGs: the first of them and the digest of its pixels.

    JPEG decoders may differ by a level, so :class:`Prepared` decodes this file and compares.

    Args:
        root: folder of the data set.
        files: names of its files, from ``root``.
    """
    file = min((file for file in files if file.endswith(JPEG)), default=None)
    return {} if file is None else {"jpeg": {"file": file, "pixels": digest(read_frame(root / file)).hex()}}
