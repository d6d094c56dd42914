"""Images: one, a folder of them, or what a pattern matches."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.frames import PNG_DEPTH, PNG_SIGNATURE, Array, read_frame
from pipeline.video.picture import Picture
from pipeline.video.sources._base import Frame, Source

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


class Images(Source):
    """Image files in the given order, as ``check`` reads them; timestamps are None.

    Args:
        name: what the user gave.
        stem: for files made of them.
        images: name of each frame and its file.

    Raises:
        UserError: the first image cannot be read.
    """

    is_video = False

    def __init__(self, name: str, stem: str, images: Sequence[tuple[str, Path]]) -> None:
        self.name = name
        self.stem = stem
        self.paths = [path for _, path in images]
        self.count = len(images)
        self._images = images
        _read(images[0][1])

    def frames(self, *, start: float = 0.0) -> Iterator[Frame]:
        if start:
            raise UserError(f"{self.name}: images have no times to start at; leave the start out")
        return (Frame(name, None, Picture.of_bgr(_read(path))) for name, path in self._images)


def _read(path: Path) -> Array:
    """(H, W, 3) BGR."""
    if path.suffix.lower() == ".png":
        try:
            with path.open("rb") as file:
                head = file.read(PNG_DEPTH + 1)
        except OSError:
            head = b""  # read_frame says it better
        if head.startswith(PNG_SIGNATURE) and head[PNG_DEPTH:] == b"\x10":
            raise UserError(
                f"{path}: 16 bits a channel do not say which range they use; convert it with what made it, or all of "
                "0..65535 with: magick IN.png -depth 8 OUT.png"
            )
    return read_frame(path)


def is_image(path: Path) -> bool:
    """By its suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def one_image(path: Path) -> Images:
    return Images(str(path), path.stem, [(path.stem, path)])


def folder_of_images(folder: Path) -> Images:
    """The images that lie in a folder, by name. Raises UserError: none, or two whose results would share a name."""
    try:
        images = [entry for entry in folder.iterdir() if _counts(entry)]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    if not images:
        raise UserError(
            f"{folder}: no images in this folder ({' '.join(IMAGE_SUFFIXES)}; folders inside are not searched, a "
            f"quoted pattern does: '{folder}/**/*.png'); give the folder that holds the frames"
        )
    return Images(str(folder), folder.resolve().name or "images", _named(str(folder), sorted(images)))


def matching_images(pattern: str) -> Images:
    """The images that a pattern matches, by path; ``**`` is any folders.

    Raises:
        UserError: it matches no image, or results of two images would share a name.
    """
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 - the pattern may be absolute
    images = sorted({Path(name) for name in found if _counts(Path(name))})
    if not images:
        raise UserError(
            f"{pattern}: "
            + (
                f"none of the {len(found)} paths that match is an image"
                if found
                else "no such file, and nothing matches"
            )
            + f" ({' '.join(IMAGE_SUFFIXES)}); quote patterns: 'frames/**/*.png'"
        )
    return Images(
        pattern,
        Path(os.path.commonpath([image.parent.absolute() for image in images])).name or "images",
        _named(pattern, images),
    )


def _counts(path: Path) -> bool:
    # names with a leading dot are not the user's: macOS leaves ._frame.png beside frame.png
    return is_image(path) and not path.name.startswith(".") and path.is_file()


def _named(given: str, images: Sequence[Path]) -> list[tuple[str, Path]]:
    """A name for each: its stem, behind the folders in which they differ."""
    common = os.path.commonpath([image.parent for image in images])
    named: dict[str, Path] = {}
    for image in images:
        name = "-".join(image.relative_to(common).with_suffix("").parts)
        other = named.setdefault(name, image)
        if other != image:
            raise UserError(f"{given}: results of {other} and {image} would share a name; rename one")
    return list(named.items())
