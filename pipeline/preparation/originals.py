"""The image files of a prepared data set: the file of the raw data where it holds exactly the frame, else a PNG.

A raw file is kept if it is a JPEG or PNG of three 8-bit channels that no EXIF orientation rotates, and if OpenCV
decodes it to the pixels that the data set plugin read. (Plugins read with Pillow, which finds incomplete files;
everything after `prepare` reads with OpenCV.) So every reader sees the pixels that a PNG of the frame has, and JPEGs
stay small.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import artifact
from pipeline.datasets._headers import may_have_orientation
from pipeline.datasets._images import ORIENTATION
from pipeline.errors import UserError
from pipeline.frames import PNG_DEPTH, Array, decode_frame, read_bytes, write_png
from pipeline.prepared import JPEG, PNG

#: Format, as Pillow names it -> suffix. MPO: a JPEG to which a camera appended more pictures.
SUFFIXES = {"JPEG": JPEG, "MPO": JPEG, "PNG": PNG}
RGB_OF_8_BITS = bytes([8, 2])  # bits and colour type in the header of a PNG


def write_image(folder: Path, name: str, frame: Array, *, source: Path | None) -> Path:
    """Write a frame (H, W, 3) BGR uint8 as ``<folder>/<name>.jpg`` or ``.png``; equal inputs give equal bytes.

    Args:
        source: the raw file of the frame; None: there is none.

    Returns:
        the file.
    """
    kept = None if source is None else _keep(source, folder, name, frame)
    if kept is not None:
        return kept
    file = folder / f"{name}{PNG}"
    write_png(file, frame)
    return file


def _keep(source: Path, folder: Path, name: str, frame: Array) -> Path | None:
    """Copy the raw file; None if the frame must be encoded instead."""
    suffix = _suffix(source)
    if suffix is None:
        return None
    try:
        data = read_bytes(source)
        if not np.array_equal(decode_frame(data, source), frame):
            return None
    except UserError:  # Pillow can decode the file, OpenCV cannot
        return None
    file = folder / f"{name}{suffix}"
    artifact.copy_file(source, file)
    if not np.array_equal(read_bytes(file), data):  # another program has changed the raw file meanwhile
        file.write_bytes(data.tobytes())
    return file


def _suffix(source: Path) -> str | None:
    """The suffix of a JPEG or PNG of three 8-bit channels that no EXIF orientation rotates, else None."""
    try:
        with source.open("rb") as file, Image.open(file) as image:
            if image.format not in SUFFIXES or image.mode != "RGB":
                return None
            if image.format == "PNG":
                file.seek(PNG_DEPTH)
                plain = file.read(2) == RGB_OF_8_BITS and not may_have_orientation(file)
            else:
                plain = image.getexif().get(ORIENTATION, 1) == 1
            return SUFFIXES[image.format] if plain else None
    except Exception:  # Pillow does not document which exceptions damaged headers raise
        return None
