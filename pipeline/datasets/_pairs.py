"""Data sets of image and mask files in pairs: the code that their plugins share.

A plugin finds the pairs and describes its masks. This file reads, checks and decodes the files.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pipeline.datasets._base import Dataset
from pipeline.datasets._headers import Headers, read_headers
from pipeline.datasets._images import SUFFIXES, read_image, read_mask
from pipeline.datasets._masks import Coding
from pipeline.errors import UserError
from pipeline.frames import Array


class Pair(NamedTuple):
    """Files of a sample. A file may be missing: :meth:`PairDataset.read` reports it."""

    image: Path
    mask: Path


class PairDataset(Dataset):
    """Base of the plugins that read image and mask files.

    A subclass sets ``labels``, ``title`` and ``coding``, fills ``pairs`` (split -> name -> files) and appends errors in
    list files and folders to ``wrong``.
    """

    title: str
    coding: Coding

    def __init__(self) -> None:
        self.pairs: dict[str, dict[str, Pair]] = {}
        self.wrong: list[str] = []

    def splits(self) -> dict[str, Sequence[str]]:
        return {split: list(pairs) for split, pairs in self.pairs.items()}

    def problems(self) -> Sequence[str]:
        return (*self.wrong, *self.headers.problems)

    def warnings(self) -> Sequence[str]:
        return self.headers.warnings

    @cached_property
    def headers(self) -> Headers:
        """Decisions that need the headers of all files. First access, after ``pairs`` is filled, reads the headers."""
        files = [(pair.image, pair.mask) for pairs in self.pairs.values() for pair in pairs.values()]
        return read_headers(files, ids=self.coding.colours is None)

    def raw_files(self) -> Iterable[Path]:
        """Images and masks of all pairs. The content of lists and folders already shows in the splits and errors."""
        return (file for pairs in self.pairs.values() for pair in pairs.values() for file in pair)

    def image_file(self, split: str, name: str) -> Path | None:
        return self.pairs[split][name].image

    def read(self, split: str, name: str) -> tuple[Array, Array]:
        if name not in self.pairs.get(split, {}):
            raise UserError(f"{self.title} has no sample {name!r} in {split!r}")
        image, mask = self.pairs[split][name]
        errors: list[str] = []
        label = frame = None
        try:
            label = self.read_label(mask)
        except UserError as error:
            errors.append(str(error))
        try:
            mask_size = None if label is None else (label.shape[0], label.shape[1])
            frame = read_image(image, fits=mask_size, stored=self.headers.stored)
        except UserError as error:
            errors.append(str(error))
        if frame is not None and label is not None and frame.shape[:2] != label.shape:
            errors.append(f"{mask}: the mask is {size(label)}, its image is {size(frame)}; they must be equal")
        if errors or frame is None or label is None:
            raise UserError("; and ".join(errors))
        return frame, label

    def read_label(self, mask: Path) -> Array:
        """Train ids (H, W) of one mask file."""
        return self.decoded(mask, self.coding)

    def decoded(self, mask: Path, coding: Coding) -> Array:
        """Train ids (H, W) of one mask file, decoded with ``coding``; its palette must not contradict ``labels``."""
        return coding.decode(mask, read_mask(mask), labels=self.labels, mixed=self.headers.mixed)


def size(image: Array) -> str:
    """Height and width of an image for messages: ``360x480``."""
    return f"{image.shape[0]}x{image.shape[1]}"


def root_folder(plugin: str, root: str | None, *, holds: str) -> Path:
    """The folder that the option ``root`` of a plugin names.

    Raises:
        UserError: the option is not set, or is not a folder.
    """
    if root is None:
        raise UserError(f"datasets.{plugin}.root: not set; set it to the folder that holds {holds}")
    folder = existing(Path(root))
    if not folder.is_dir():
        raise UserError(f"datasets.{plugin}.root: {root} is not a folder; set it to the folder that holds {holds}")
    return folder


def existing(path: Path) -> Path:
    """The path; if it does not exist but a path in another Unicode form (NFC, NFD) does, that path."""
    forms = (path, *(Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD")))
    return next((each for each in forms if each.exists()), path)


def by_stem(folder: Path, wrong: list[str], *, suffixes: Iterable[str] = SUFFIXES, tail: str = "") -> dict[str, Path]:
    """Image files of a folder by stem, sorted by stem. The case of the suffix does not matter.

    Args:
        wrong: gets an error if the folder cannot be read, and one for each stem that two files have.
        suffixes: allowed suffixes, in lower case.
        tail: required end of the stem of each file; it is removed from the stem.
    """
    by_name: dict[str, Path] = {}
    allowed = tuple(suffixes)
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        wrong.append(f"{folder}: cannot be read ({error.strerror}); the data set needs this folder")
        return {}
    for file in files:
        if file.suffix.lower() in allowed and file.stem.endswith(tail) and not file.name.startswith("."):
            stem = unicodedata.normalize("NFC", file.stem.removesuffix(tail))
            if stem in by_name:
                wrong.append(f"{file}: {by_name[stem].name} has the same stem; keep one of the two")
            by_name.setdefault(stem, file)
    return by_name


def matched(names: Iterable[str], images: dict[str, Path], masks: dict[str, Path], *, at: Pair) -> dict[str, Pair]:
    """The files of each name. For a missing file, the path where it should be, for the error message of ``read``.

    Args:
        at: the folders and suffixes of missing files: ``JPEGImages/x.jpg``.
    """
    return {
        name: Pair(
            images.get(name, at.image.with_name(name + at.image.suffix)),
            masks.get(name, at.mask.with_name(name + at.mask.suffix)),
        )
        for name in names
    }


def unpaired(images: dict[str, Path], masks: dict[str, Path]) -> list[str]:
    """An error for each image without a mask and each mask without an image."""
    errors = [f"{images[name]}: no mask; add its mask or remove the image" for name in images if name not in masks]
    return errors + [
        f"{masks[name]}: no image; add its image or remove the mask" for name in masks if name not in images
    ]
