"""What the headers of all files of a data set say together, where one file alone is ambiguous.

An EXIF orientation by 90 degrees shows, by the sizes, whether masks were drawn on the stored pixels or on turned ones;
an orientation by 180 degrees or a mirrored one does not. Masks of few bits and palettes are judged by the others too.
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
TEXTS = (b"Raw profile type exif", b"Raw profile type APP1", b"XML:com.adobe.xmp")  # PNG texts with an orientation
REMOVE = "exiftool -Orientation= FILE removes it"
Size = tuple[int, int]


@dataclass(frozen=True)
class Headers:
    """Decisions for all files of a data set.

    Args:
        stored: masks are drawn on stored pixels, so that no EXIF orientation is applied.
        mixed: grey masks differ in depth, or some are indexed with greys.
        faults: contradictions between files.
        warnings: what no file decides.
    """

    stored: bool
    mixed: bool
    faults: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Header:
    """Of one file; ``size`` is (height, width) as stored, ``depth`` the bits of a grey mask, 0 with a grey palette."""

    size: Size
    orientation: int = 1
    depth: int | None = None
    palette: Array | None = None


def read_headers(files: Iterable[tuple[Path, Path]], *, ids: bool) -> Headers:
    """Judge the images and masks of a data set by their headers. Files that cannot be read are passed over.

    Args:
        files: (image, mask) of every sample.
        ids: masks hold ids, so that all palettes must give an entry the same colour.
    """
    stored: Path | None = None
    turned: Path | None = None
    unproven: list[Path] = []
    depths: set[int] = set()
    palettes: dict[bytes, Path] = {}
    for image, mask in files:
        masks = _header(mask)
        if masks and masks.depth is not None:
            depths.add(masks.depth)
        if masks and masks.palette is not None:
            palettes.setdefault(masks.palette.tobytes(), mask)
        images = _header(image)
        if images is None or images.orientation not in range(2, 9):
            continue
        height, width = images.size
        if images.orientation not in SIDEWAYS or height == width or masks is None:
            unproven.append(image)
        elif masks.size == (height, width):
            stored = stored or image
        elif masks.size == (width, height):
            turned = turned or image
    faults, warnings = [], []
    if stored and turned:
        faults.append(
            f"{stored}: its mask fits the stored pixels, but the mask of {turned} fits those that its EXIF orientation "
            "turned; all masks must be drawn in one way. Where they were drawn on stored pixels, remove the "
            f"orientation from the image: {REMOVE}"
        )
    elif unproven and not stored and not turned:
        count = f"{len(unproven)} image{'s have' if len(unproven) > 1 else ' has'}"
        warnings.append(
            f"{unproven[0]}: {count} an EXIF orientation, and no size shows whether the masks were drawn on turned "
            f"pixels; they are turned, as viewers do. If masks were drawn on stored pixels, remove it: {REMOVE}"
        )
    if ids:
        faults += _differing(palettes)
    return Headers(stored is not None and turned is None, len(depths) > 1, tuple(faults), tuple(warnings))


def _differing(palettes: dict[bytes, Path]) -> list[str]:
    """A fault when two palettes give an entry different colours: then entries cannot all be ids."""
    first: dict[int, tuple[tuple[int, int, int], Path]] = {}
    for data, path in palettes.items():
        for entry, values in enumerate(np.frombuffer(data, np.uint8).reshape(-1, 3)):
            shown, other = first.setdefault(entry, (colour(values), path))
            if shown != colour(values):
                got = f"{colour(values)} in its palette, but {shown} in that of {other}"
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
                one = image.mode in ("1", "L") or image.mode.startswith("I;16")
                size = tiff.get(257, image.height), tiff.get(256, image.width)
                oriented = not png or _has_orientation(file)
                file.seek(0)
                return _Header(
                    size=size,
                    orientation=tiff.get(ORIENTATION) or (image.getexif().get(ORIENTATION, 1) if oriented else 1),
                    depth=bits if one else 0 if grey else None,
                    palette=None if grey else palette,
                )
    except Exception:  # reading the sample says what is wrong, and Pillow has no closed list of what it raises
        return None


def _has_orientation(file: BinaryIO) -> bool:
    """Whether a PNG may have one. Pillow would decode all of it to know."""
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
    """Palette (n, 3) RGB of an indexed image whose pixels are not read, without black entries at its end."""
    if image.mode != "P" or image.palette is None:
        return None
    mode, data = image.palette.rawmode or "RGB", bytes(image.palette.palette)
    entries = np.frombuffer(data[: len(data) // len(mode) * len(mode)], np.uint8).reshape(-1, len(mode))
    entries = entries[:, [mode.index(channel) for channel in "RGB"]]
    return entries[: int(np.flatnonzero(entries.any(1)).max(initial=-1)) + 1]
