"""Reading one image or one mask of a raw data set: whole and unambiguous, or a fault with its remedy.

Pillow decodes, because it stops at the end of a truncated file where OpenCV returns half a picture, and gives the
entries of a palette where OpenCV gives colours. Checksums of PNG and the end marker of JPEG are checked besides. A bit
that flips inside the data of a JPEG can go unseen: that format has no checksum.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import UserError
from pipeline.frames import PNG_DEPTH, PNG_SIGNATURE, Array

Values = npt.NDArray[Any]
Decoded = TypeVar("Decoded")
IMAGES = ("PNG", "JPEG", "MPO", "BMP", "TIFF", "WEBP")  # MPO: what some cameras write as .jpg
MASKS = ("PNG", "BMP", "TIFF")  # lossless
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MOST_PIXELS = 89_478_485  # from here on Pillow suspects a decompression bomb
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap height and width
RESTORE = "restore the file or remove it from its list"


@dataclass(frozen=True)
class Mask:
    """A mask as its file holds it.

    Args:
        values: (H, W) uint8 or uint16 ids or palette entries, or (H, W, 3) uint8 RGB.
        palette: (n, 3) uint8 RGB of the palette entries; None when there is no palette.
    """

    values: Values
    palette: Array | None = None


def read_image(path: Path, *, fits: tuple[int, int] | None = None) -> Array:
    """An image as (H, W, 3) BGR uint8.

    Grey becomes three equal channels, an opaque alpha channel is dropped. An EXIF orientation is applied, as viewers
    and OpenCV do, unless ``fits`` says that the mask was drawn on the picture as it is stored.

    Args:
        fits: (height, width) of its mask.

    Raises:
        UserError: missing, damaged or truncated; CMYK, transparent, 16 bits a channel.
    """
    return _read(path, IMAGES, lambda image, data: _frame(path, image, data, fits))


def read_mask(path: Path) -> Mask:
    """A mask as ids, palette entries or colours; 1, 2 and 4 bits are ids too, 16 bits stay 16.

    Raises:
        UserError: missing, damaged or truncated; JPEG (it alters ids), transparent, not integers.
    """
    return _read(path, MASKS, lambda image, data: _mask(path, image, data))


def _read(path: Path, formats: tuple[str, ...], convert: Callable[[Image.Image, bytes], Decoded]) -> Decoded:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; restore it or remove it from its list") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in its name
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from error
    if not data:
        raise UserError(f"{path}: empty file; {RESTORE}")
    try:
        image = Image.open(io.BytesIO(data))
        if image.format not in formats:
            raise UserError(f"{path}: {image.format}; allowed: {', '.join(formats)}{_lossy(image.format, formats)}")
        if image.width * image.height > MOST_PIXELS:
            raise UserError(f"{path}: {image.height}x{image.width}; more than {MOST_PIXELS} pixels; cut it in tiles")
        _check_whole(image.format, data)
        image.load()
        return convert(image, data)
    except UserError:
        raise
    except Exception as error:  # Pillow has no closed list of what it raises on damaged bytes
        raise UserError(f"{path}: not a readable image ({_reason(error)}); {RESTORE}") from error


def _reason(error: Exception) -> str:
    text = str(error)
    return "no format that is known" if isinstance(error, UnidentifiedImageError) else text or type(error).__name__


def _lossy(got: str | None, formats: tuple[str, ...]) -> str:
    return ", because it must be lossless; save class ids as PNG" if formats is MASKS and got in IMAGES else ""


def _check_whole(kind: str | None, data: bytes) -> None:
    """Raise ValueError when a PNG or a JPEG is cut or a checksum is wrong."""
    if kind == "PNG":
        _check_png(data)
    elif kind in ("JPEG", "MPO"):
        _check_jpeg(data)


def _check_png(data: bytes) -> None:
    at, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError("truncated: it ends before its last chunk")
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data):
            raise ValueError(f"truncated: chunk {kind.decode('latin-1')!r} is longer than the file")
        if zlib.crc32(memoryview(data)[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"damaged: checksum of chunk {kind.decode('latin-1')!r}")
        at = end + 4


def _check_jpeg(data: bytes) -> None:
    """Find the end marker behind the start of the first scan; one inside a thumbnail stands before it."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise ValueError("damaged: no marker where one must be")
        marker = data[at + 1]
        if marker == 0xDA:
            break
        at += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", data, at + 2)[0]
    if data.find(b"\xff\xd9", at) < 0:
        raise ValueError("truncated: no end marker")


def _frame(path: Path, image: Image.Image, data: bytes, fits: tuple[int, int] | None) -> Array:
    if image.mode in ("CMYK", "YCCK", "LAB", "HSV"):
        raise UserError(f"{path}: {image.mode} colours need a profile to be shown; convert it to RGB")
    if _bits(image, data) > 8:
        raise UserError(
            f"{path}: more than 8 bits a channel ({image.mode}); scale it to 8 bits in the way that you want"
        )
    opaque = _opaque(path, _upright(image, fits))
    return np.ascontiguousarray(np.asarray(opaque.convert("RGB"))[..., ::-1])


def _mask(path: Path, image: Image.Image, data: bytes) -> Mask:
    if image.mode == "1":
        return Mask(np.asarray(image).astype(np.uint8))
    if image.mode == "P":
        palette = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return Mask(np.array(image), palette)
    if image.mode.startswith("I;16"):
        return Mask(np.array(image).astype(np.uint16))
    if image.mode == "L":
        stretch = {2: 85, 4: 17}.get(_bits(image, data), 1)  # Pillow stretches 2 and 4 bits to 0..255
        return Mask(np.asarray(image) // np.uint8(stretch))
    if image.mode in ("LA", "RGB", "RGBA") and _bits(image, data) <= 8:
        opaque = _opaque(path, image)
        return Mask(np.array(opaque.getchannel("R") if image.mode == "LA" else opaque.convert("RGB")))
    raise UserError(
        f"{path}: mode {image.mode}, {_bits(image, data)} bits; a mask is one channel of ids, a palette or RGB; "
        "save it as 8-bit PNG"
    )


def _bits(image: Image.Image, data: bytes) -> int:
    """Bits of a sample: of a PNG as its header says, of others as Pillow's mode implies."""
    if image.format == "PNG":
        return data[PNG_DEPTH]
    return 32 if image.mode in ("I", "F") else 16 if image.mode.startswith("I;16") else 8


def _opaque(path: Path, image: Image.Image) -> Image.Image:
    """The image; where it has an alpha channel, that must be opaque."""
    if not image.has_transparency_data:
        return image
    full = image.convert("RGBA")
    if full.getchannel("A").getextrema() != (255, 255):
        raise UserError(f"{path}: transparent pixels have no colour; flatten it onto a background")
    return full


def _upright(image: Image.Image, fits: tuple[int, int] | None) -> Image.Image:
    """Turned as its EXIF orientation says, unless only the stored size fits the mask."""
    stored = (image.height, image.width)
    swaps = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    if swaps and fits == stored and fits != stored[::-1]:
        return image
    return ImageOps.exif_transpose(image)
