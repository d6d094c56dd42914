"""Data sets of image and mask files in pairs: what their plugins share.

A plugin finds the pairs and says what its masks hold; reading, checking and decoding are here.
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
    """Files of a sample; either may be missing, which :meth:`PairDataset.read` says."""

    image: Path
    mask: Path


class PairDataset(Dataset):
    """Base of the plugins that read image and mask files.

    A subclass sets ``labels``, ``title`` and ``coding``, fills ``pairs`` (split -> name -> files) and appends what is
    wrong with lists and layout to ``wrong``.
    """

    title: str
    coding: Coding

    def __init__(self) -> None:
        self.pairs: dict[str, dict[str, Pair]] = {}
        self.wrong: list[str] = []

    def splits(self) -> dict[str, Sequence[str]]:
        return {split: list(pairs) for split, pairs in self.pairs.items()}

    def faults(self) -> Sequence[str]:
        return (*self.wrong, *self.headers.faults)

    def warnings(self) -> Sequence[str]:
        return self.headers.warnings

    @cached_property
    def headers(self) -> Headers:
        """What all files say together; read when it is first needed, after ``pairs`` is filled."""
        files = [(pair.image, pair.mask) for pairs in self.pairs.values() for pair in pairs.values()]
        return read_headers(files, ids=self.coding.colours is None)

    def raw_files(self) -> Iterable[Path]:
        """Images and masks of all pairs; what lists and folders hold shows in the splits and faults."""
        return (file for pairs in self.pairs.values() for pair in pairs.values() for file in pair)

    def read(self, split: str, name: str) -> tuple[Array, Array]:
        if name not in self.pairs.get(split, {}):
            raise UserError(f"{self.title} has no sample {name!r} in {split!r}")
        image, mask = self.pairs[split][name]
        found: list[str] = []
        label = frame = None
        try:
            label = self.read_label(mask)
        except UserError as error:
            found.append(str(error))
        try:
            drawn = None if label is None else (label.shape[0], label.shape[1])
            frame = read_image(image, fits=drawn, stored=self.headers.stored)
        except UserError as error:
            found.append(str(error))
        if frame is not None and label is not None and frame.shape[:2] != label.shape:
            found.append(f"{mask}: label is {size(label)}, its image is {size(frame)}; they must be equal")
        if found or frame is None or label is None:
            raise UserError("; and ".join(found))
        return frame, label

    def read_label(self, mask: Path) -> Array:
        """Train ids (H, W) of one mask file."""
        return self.decoded(mask, self.coding)

    def decoded(self, mask: Path, coding: Coding) -> Array:
        """Train ids (H, W) of one mask file by a coding, which must agree with the declared colours."""
        return coding.decode(mask, read_mask(mask), labels=self.labels, mixed=self.headers.mixed)


def size(image: Array) -> str:
    """``height x width`` as messages write it."""
    return f"{image.shape[0]}x{image.shape[1]}"


def root_folder(plugin: str, root: str | None, *, holds: str) -> Path:
    """The folder that the option ``root`` of a plugin names.

    Raises:
        UserError: not set, or no folder.
    """
    if root is None:
        raise UserError(f"datasets.{plugin}.root: not set; set it to the folder that holds {holds}")
    folder = existing(Path(root))
    if not folder.is_dir():
        raise UserError(f"datasets.{plugin}.root: {root} is no folder; set it to the one that holds {holds}")
    return folder


def existing(path: Path) -> Path:
    """The path, in the form of Unicode that is on the disk if only that one is there."""
    forms = (path, *(Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD")))
    return next((each for each in forms if each.exists()), path)


def by_stem(folder: Path, wrong: list[str], *, suffixes: Iterable[str] = SUFFIXES, tail: str = "") -> dict[str, Path]:
    """Image files of a folder by their stem, sorted; the case of a suffix does not matter.

    Args:
        wrong: gets a line when the folder cannot be read, and one for every stem that two files have.
        tail: end that the stems must have; it is cut off.
    """
    found: dict[str, Path] = {}
    allowed = tuple(suffixes)
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        wrong.append(f"{folder}: cannot be read ({error.strerror}); the layout needs this folder")
        return {}
    for file in files:
        if file.suffix.lower() in allowed and file.stem.endswith(tail) and not file.name.startswith("."):
            stem = unicodedata.normalize("NFC", file.stem.removesuffix(tail))
            if stem in found:
                wrong.append(f"{file}: {found[stem].name} has the same stem; keep one of them")
            found.setdefault(stem, file)
    return found


def matched(names: Iterable[str], images: dict[str, Path], masks: dict[str, Path], *, at: Pair) -> dict[str, Pair]:
    """The files of each name; where there is none, the path where it should lie, for the message of the read.

    Args:
        at: folders, with the suffix that the layout prescribes: ``JPEGImages/*.jpg``.
    """
    return {
        name: Pair(
            images.get(name, at.image.with_name(name + at.image.suffix)),
            masks.get(name, at.mask.with_name(name + at.mask.suffix)),
        )
        for name in names
    }


def unpaired(images: dict[str, Path], masks: dict[str, Path]) -> list[str]:
    """A fault for every image without a mask and every mask without an image."""
    found = [f"{images[name]}: no label; add its mask or remove the image" for name in images if name not in masks]
    return found + [f"{masks[name]}: no image; add it or remove the mask" for name in masks if name not in images]
