"""Images as a source: one, a folder, a pattern or a list."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import UserError
from pipeline.frames import PNG_DEPTH, PNG_SIGNATURE, Array, read_frame
from pipeline.video.drawing.picture import Picture
from pipeline.video.names import LONGEST, shortened
from pipeline.video.sources._animated import is_animated
from pipeline.video.sources._base import Frame, Source
from pipeline.video.sources._listing import IMAGE_SUFFIXES, Listing, is_image, list_folder, list_pattern
from pipeline.video.sources._order import natural_order

__all__ = ["IMAGE_SUFFIXES", "Images", "folder_of_images", "is_image", "listed_images", "matching_images", "one_image"]

log = logging.getLogger(__name__)

_LONGEST_NAME = LONGEST - len(".png")
_NAMED = 10  # unreadable images that have a warning each; the others are counted
_DEEP = (
    "16 bits per channel or more, and the range of its values is unknown; convert it with the program that made it, or "
    "the whole range 0..65535 with: magick IN -depth 8 OUT.png"
)


class Images(Source):
    """Image files in the given order, as ``check`` reads them; timestamps are None.

    Args:
        name: the text that the user gave.
        stem: for names of results.
        images: (name of the frame, file) of each image.
        strict: whether an image that cannot be read is an error; otherwise it is skipped with a warning.

    Raises:
        UserError: no image can be read; with ``strict``, the first image cannot be read.
    """

    is_video = False

    def __init__(self, name: str, stem: str, images: Sequence[tuple[str, Path]], *, strict: bool = False) -> None:
        self.name = name
        self.stem = stem
        self.paths = [path for _, path in images]
        self.count = len(images)
        self._images = images
        self._strict = strict
        self._warned_of_rest = False
        self._look(images)

    def _look(self, images: Sequence[tuple[str, Path]]) -> None:
        """Read images until one of them can be read."""
        first: UserError | None = None
        for _, path in images:
            try:
                _read(path)
                return
            except UserError as error:
                first = first or error
                if self._strict or len(images) == 1:
                    raise
        raise UserError(f"{self.name}: not one of {len(images)} images can be read; the first: {first}")

    def _warn_of_rest(self, path: Path) -> None:
        """Warn once of a file with more than one picture, of which only the first one is read."""
        suffix = path.suffix.lower()
        if not self._warned_of_rest and (is_animated(path) or (suffix in (".tif", ".tiff") and _pages(path) > 1)):
            self._warned_of_rest = True
            log.warning("%s: holds more than one picture, only the first one is read; split such files", path)

    def frames(self, *, start: float = 0.0) -> Iterator[Frame]:
        if start:
            raise UserError(f"{self.name}: images have no times to start at; leave the start out")
        return self._frames()

    def _frames(self) -> Iterator[Frame]:
        skipped: list[str] = []
        self.skipped = skipped
        for name, path in self._images:
            try:
                picture = Picture.of_bgr(_read(path))
            except UserError as error:
                if self._strict:
                    raise
                skipped.append(str(path))
                if len(skipped) <= _NAMED:
                    log.warning("skipped: %s", error)
                continue
            self._warn_of_rest(path)
            yield Frame(name, None, picture)
        if len(skipped) > _NAMED:
            log.warning("%s: %d images were skipped in all", self.name, len(skipped))


def _read(path: Path) -> Array:
    """(H, W, 3) BGR. Raises UserError if the file is not an image, or has more than 8 bits per channel."""
    suffix = path.suffix.lower()
    if suffix == ".png":
        try:
            with path.open("rb") as file:
                head = file.read(PNG_DEPTH + 1)
        except OSError:
            head = b""  # read_frame has the better message
        if head.startswith(PNG_SIGNATURE) and head[PNG_DEPTH:] == b"\x10":
            raise UserError(f"{path}: {_DEEP}")
    if suffix in (".tif", ".tiff"):
        _refuse_deep_tiff(path)
    return read_frame(path)


def _refuse_deep_tiff(path: Path) -> None:
    """Raise UserError for more than 8 bits: OpenCV would drop the lower bits without a warning."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError:
        return  # read_frame has the better message
    try:
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error:
        return
    if image is not None and image.dtype != np.uint8:
        raise UserError(f"{path}: {image.dtype}; {_DEEP}")


def _pages(path: Path) -> int:
    try:
        return int(cv2.imcount(str(path)))
    except cv2.error:
        return 0


def one_image(path: Path) -> Images:
    return Images(str(path), path.stem, [(path.stem, path)])


def listed_images(images: Sequence[Path], *, strict: bool = False) -> Images:
    """Images that the user named one by one, in natural order. Raises UserError if two results would have one name."""
    ordered = sorted(dict.fromkeys(images), key=natural_order)
    name = f"{ordered[0]} and {len(ordered) - 1} more"
    return Images(name, _common_folder(ordered), _named(name, ordered), strict=strict)


def folder_of_images(folder: Path, *, strict: bool = False) -> Images:
    """The images of a folder, by name. Raises UserError if there are none, or results of two would have one name."""
    listing = list_folder(folder)
    if not listing.images:
        raise UserError(
            f"{folder}: no images in this folder ({' '.join(IMAGE_SUFFIXES)}; folders inside are not searched, a "
            f"quoted pattern does: '{folder}/**/*.png'){_found(listing)}; give the folder that holds the frames"
        )
    listing.warn_of_skipped(listing.images)
    return Images(str(folder), folder.resolve().name or "images", _named(str(folder), listing.images), strict=strict)


def matching_images(pattern: str, *, strict: bool = False) -> Images:
    """The images that a pattern matches, by path; ``**`` is any folders.

    Raises:
        UserError: it matches no image, or results of two images would share a name.
    """
    listing = list_pattern(pattern)
    images = listing.images
    if not images:
        count = sum(map(len, (listing.videos, listing.overlays, listing.folders, listing.others)))
        raise UserError(
            f"{pattern}: "
            + (f"none of the {count} paths that match is an image" if count else "no such file, and nothing matches")
            + f" ({' '.join(IMAGE_SUFFIXES)}); quote patterns: 'frames/**/*.png'{_found(listing)}"
        )
    listing.warn_of_skipped(images)
    return Images(pattern, _common_folder(images), _named(pattern, images), strict=strict)


def _found(listing: Listing) -> str:
    if not listing.videos:
        return ""
    return f"; there are {len(listing.videos)} videos, such as {listing.videos[0]}: open one"


def _common_folder(images: Sequence[Path]) -> str:
    folders = {image.parent for image in images}
    return Path(os.path.commonpath([folder.resolve() for folder in folders])).name or "images"


def _named(given: str, images: Sequence[Path]) -> list[tuple[str, Path]]:
    """A name for each image: its stem, after the folders in which the images differ."""
    common = os.path.commonpath([image.parent for image in images])
    named: dict[str, Path] = {}
    for image in images:
        name = shortened("-".join(image.relative_to(common).with_suffix("").parts), _LONGEST_NAME)
        other = named.setdefault(name, image)
        if other != image:
            raise UserError(f"{given}: results of {other} and {image} would share a name; rename one")
    return list(named.items())
