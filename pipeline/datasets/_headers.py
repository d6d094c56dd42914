"""Decisions that need the headers of all files of a data set, because a single file is ambiguous.

If an EXIF orientation rotates an image by 90 degrees, the sizes show whether its mask was drawn on the stored pixels or
on the rotated ones. An orientation that mirrors an image or rotates it by 180 degrees does not show this. How to read
masks of less than 8 bits and masks with palettes also depends on the other masks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.datasets._images import ORIENTATION, SAMPLE_BITS
from pipeline.datasets._palettes import REMEDY, colour, is_grey
from pipeline.frames import PNG_DEPTH, PNG_SIGNATURE, Array

SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
TEXTS = (b"Raw profile type exif", b"Raw profile type APP1", b"XML:com.adobe.xmp")  # PNG texts that hold EXIF or XMP
REMOVE = "exiftool -Orientation= FILE removes it"
Size = tuple[int, int]


@dataclass(frozen=True)
class Headers:
    """Decisions for all files of a data set.

    Args:
        stored: masks are drawn on stored pixels, so no EXIF orientation is applied.
        mixed: grey masks differ in bit depth, or some have a grey palette.
        problems: contradictions between files.
        warnings: questions that no file answers.
    """

    stored: bool
    mixed: bool
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Header:
    """Header of a file: (height, width) as stored, EXIF orientation, bits of a grey mask (0: it has a grey palette)."""

    size: Size
    orientation: int = 1
    depth: int | None = None
    palette: Array | None = None


def read_headers(files: Iterable[tuple[Path, Path]], *, ids: bool) -> Headers:
    """Read the headers of all images and masks of a data set. Files that cannot be read are skipped.

    Args:
        files: (image, mask) of every sample.
        ids: masks hold ids, so an entry must have the same colour in all palettes.
    """
    stored: Path | None = None
    rotated: Path | None = None
    unproven: list[Path] = []
    depths: set[int] = set()
    palettes: dict[bytes, Path] = {}
    for image, mask in files:
        mask_header = _header(mask)
        if mask_header and mask_header.depth is not None:
            depths.add(mask_header.depth)
        if mask_header and mask_header.palette is not None:
            palettes.setdefault(mask_header.palette.tobytes(), mask)
        image_header = _header(image)
        if image_header is None or image_header.orientation not in range(2, 9):
            continue
        height, width = image_header.size
        if image_header.orientation not in SIDEWAYS or height == width or mask_header is None:
            unproven.append(image)
        elif mask_header.size == (height, width):
            stored = stored or image
        elif mask_header.size == (width, height):
            rotated = rotated or image
    problems, warnings = [], []
    if stored and rotated:
        problems.append(
            f"{stored}: its mask fits the stored pixels, but the mask of {rotated} fits the pixels as its EXIF "
            "orientation rotates them; all masks must be drawn in the same way. If a mask was drawn on stored pixels, "
            f"remove the orientation from its image: {REMOVE}"
        )
    elif unproven and not stored and not rotated:
        count = f"{len(unproven)} image{'s have' if len(unproven) > 1 else ' has'}"
        warnings.append(
            f"{unproven[0]}: {count} an EXIF orientation, and no size shows whether the masks were drawn on rotated "
            "pixels; the images are rotated, as in viewers. If the masks were drawn on stored pixels, remove the "
            f"orientation: {REMOVE}"
        )
    if ids:
        problems += _differing(palettes)
    return Headers(stored is not None and rotated is None, len(depths) > 1, tuple(problems), tuple(warnings))


def _differing(palettes: dict[bytes, Path]) -> list[str]:
    """An error if an entry has different colours in two palettes: then the entries cannot all be ids."""
    first: dict[int, tuple[tuple[int, int, int], Path]] = {}
    for data, path in palettes.items():
        for entry, values in enumerate(np.frombuffer(data, np.uint8).reshape(-1, 3)):
            expected, other = first.setdefault(entry, (colour(values), path))
            if expected != colour(values):
                got = f"{colour(values)} in its palette, but {expected} in the palette of {other}"
                return [f"{path}: entry {entry} is {got}; ids need the same palette in all masks: {REMEDY}"]
    return []


def _header(path: Path) -> _Header | None:
    try:
        with path.open("rb") as file:
            start = file.read(PNG_DEPTH + 2)
            file.seek(0)
            with Image.open(file) as image:
                tiff = image.tag_v2 if isinstance(image, TiffImageFile) else {}
                png = start[:8] == PNG_SIGNATURE
                bits = start[PNG_DEPTH] if png else max(tiff.get(SAMPLE_BITS, (1 if image.mode == "1" else 8,)))
                palette = _palette(image)
                grey = palette is not None and is_grey(palette)
                single_channel = image.mode in ("1", "L") or image.mode.startswith("I;16")
                size = tiff.get(257, image.height), tiff.get(256, image.width)
                oriented = not png or may_have_orientation(file)
                file.seek(0)
                return _Header(
                    size=size,
                    orientation=tiff.get(ORIENTATION) or (image.getexif().get(ORIENTATION, 1) if oriented else 1),
                    depth=bits if single_channel else 0 if grey else None,
                    palette=None if grey else palette,
                )
    except Exception:  # reading the sample reports the error; Pillow does not document which exceptions it raises
        return None


def may_have_orientation(file: BinaryIO) -> bool:
    """Whether a PNG may have an EXIF orientation. To answer this, Pillow would decode the whole file."""
    at = len(PNG_SIGNATURE)
    while True:
        file.seek(at)
        chunk = file.read(8 + max(map(len, TEXTS)))
        if len(chunk) < 8 or chunk[4:8] == b"IEND":
            return False
        if chunk[4:8] == b"eXIf" or chunk[8:].startswith(TEXTS):
            return True
        at += 12 + int.from_bytes(chunk[:4], "big")


def _palette(image: Image.Image) -> Array | None:
    """Palette (n, 3) RGB of an indexed image, without the black entries at its end. Reads no pixels."""
    if image.mode != "P" or image.palette is None:
        return None
    mode, data = image.palette.rawmode or "RGB", bytes(image.palette.palette)
    entries = np.frombuffer(data[: len(data) // len(mode) * len(mode)], np.uint8).reshape(-1, len(mode))
    entries = entries[:, [mode.index(channel) for channel in "RGB"]]
    return entries[: int(np.flatnonzero(entries.any(1)).max(initial=-1)) + 1]
