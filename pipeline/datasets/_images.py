"""Read one image or one mask of a raw data set. A damaged or ambiguous file is an error that says how to fix it.

Pillow decodes the files: it raises an error for a truncated file, where OpenCV returns half an image, and it returns
the entries of a palette, where OpenCV returns colours. ``_whole`` checks what Pillow does not check. A flipped bit
inside the data of a JPEG may stay undetected: the format has no checksum.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.datasets._whole import COMPRESSION, check_file
from pipeline.errors import UserError
from pipeline.frames import PNG_DEPTH, Array

Values = npt.NDArray[Any]
Decoded = TypeVar("Decoded")
IMAGES = ("PNG", "JPEG", "MPO", "BMP", "TIFF", "WEBP")  # MPO: some cameras write it with the suffix .jpg
MASKS = ("PNG", "BMP", "TIFF")  # lossless
LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF", "WEBP")
LOSSLESS = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)  # TIFF: none, CCITT, LZW, Deflate, PackBits, LZMA, Zstandard
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp")
MOST_PIXELS = 89_478_485  # of larger images Pillow warns: they may be decompression bombs
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap height and width
SUBFILE, SAMPLE_BITS, PHOTOMETRIC = 254, 258, 262  # tags of TIFF
WHITE_IS_ZERO = 0  # a value of PHOTOMETRIC
BMP_OF_OS2 = 12  # header size of OS/2 BMP files; they store the bits per pixel 4 bytes earlier
RESTORE = "restore the file or remove it from its list"


@dataclass(frozen=True)
class Mask:
    """The values of a mask file.

    Args:
        values: (H, W) uint8 or uint16 ids or palette entries, or (H, W, 3) uint8 RGB.
        palette: (n, 3) uint8 RGB of the palette entries; None: the mask has no palette.
        bits: bits per channel in the file.
    """

    values: Values
    palette: Array | None = None
    bits: int = 8


@dataclass(frozen=True)
class _Facts:
    """Facts of the header that the decoded pixels do not show.

    Args:
        bits: bits per channel.
        orientation: orientation of a TIFF; Pillow applies it when it decodes.
        inverted: 0 is white.
        lossy: the compression of the TIFF changes values.
        packed: a grey BMP of less than 8 bits.
    """

    bits: int
    orientation: int
    inverted: bool
    lossy: bool
    packed: bool


def read_image(path: Path, *, fits: tuple[int, int] | None = None, stored: bool = False) -> Array:
    """An image as (H, W, 3) BGR uint8.

    A grey image gets three equal channels; an opaque alpha channel is removed. The EXIF orientation is applied, as in
    viewers and in OpenCV, unless the mask fits only the stored pixels.

    Args:
        fits: (height, width) of its mask; None: unknown.
        stored: the masks are drawn on stored pixels: do not apply the orientation.

    Raises:
        UserError: the file is missing, damaged or truncated; it is CMYK, transparent, or has 16 bits per channel; it
            has several pages or frames.
    """
    return _read(path, IMAGES, lambda image, facts: _frame(path, image, facts, fits, stored))


def read_mask(path: Path) -> Mask:
    """A mask as grey values (of 1, 2, 4, 8 or 16 bits, not scaled), palette entries or colours.

    Raises:
        UserError: the file is missing, damaged or truncated; its compression is lossy, which changes ids; it is
            transparent; its values are not integers; it has several pages or frames, or an EXIF orientation; 0 is
            white.
    """
    return _read(path, MASKS, lambda image, facts: _mask(path, image, facts))


def _read(path: Path, formats: tuple[str, ...], convert: Callable[[Image.Image, _Facts], Decoded]) -> Decoded:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {RESTORE}") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from error
    if not data:
        raise UserError(f"{path}: empty file; {RESTORE}")
    try:
        image = Image.open(io.BytesIO(data))
        if image.format not in formats:
            raise UserError(f"{path}: {image.format}; allowed: {', '.join(formats)}{_instead(image.format, formats)}")
        if image.width * image.height > MOST_PIXELS:
            size = f"{image.height}x{image.width}"
            raise UserError(f"{path}: {size}; allowed: at most {MOST_PIXELS} pixels; cut it into tiles")
        _check_one_picture(path, image)
        facts = _facts(image, data)
        check_file(image, data)
        image.load()
        return convert(image, facts)
    except UserError:
        raise
    except Exception as error:  # Pillow does not document which exceptions damaged bytes raise
        raise UserError(f"{path}: not a readable image ({_reason(error)}); {RESTORE}") from error


def _reason(error: Exception) -> str:
    text = str(error)
    return "unknown format" if isinstance(error, UnidentifiedImageError) else text or type(error).__name__


def _instead(got: str | None, formats: tuple[str, ...]) -> str:
    if formats is IMAGES:
        return "; save it as PNG"
    advice = "create it again from its source" if got in LOSSY else "save it again"
    return f", because masks must be lossless; {advice}, as 8-bit grey PNG of class ids"


def _check_one_picture(path: Path, image: Image.Image) -> None:
    """Refuse files with several pages or frames. Allowed are smaller copies of the first page and the extra images
    that cameras append to a JPEG.
    """
    count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if isinstance(image, TiffImageFile) and count > 1:
        count = 1 + sum(1 for page in range(1, count) if not _is_reduced(image, page))
        image.seek(0)
    if count > 1:
        raise UserError(f"{path}: {count} pages or frames; allowed: 1; save the correct one as a separate file")


def _is_reduced(image: TiffImageFile, page: int) -> bool:
    image.seek(page)
    return bool(image.tag_v2.get(SUBFILE, 0) & 1)


def _facts(image: Image.Image, data: bytes) -> _Facts:
    """Call this before the pixels are decoded: decoding removes some of these facts."""
    tiff = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    modes = 32 if image.mode in ("I", "F") else 16 if image.mode.startswith("I;16") else 8
    bits = (
        data[PNG_DEPTH] if image.format == "PNG" else max(tiff.get(SAMPLE_BITS, (1 if image.mode == "1" else modes,)))
    )
    packed = isinstance(image, BmpImageFile) and image.mode == "L" and data[28 if data[14] > BMP_OF_OS2 else 24] < 8
    return _Facts(
        bits=bits,
        orientation=tiff.get(ORIENTATION, 1),
        inverted=tiff.get(PHOTOMETRIC) == WHITE_IS_ZERO,
        lossy=bool(tiff) and tiff.get(COMPRESSION, 1) not in LOSSLESS,
        packed=packed,
    )


def _frame(path: Path, image: Image.Image, facts: _Facts, fits: tuple[int, int] | None, stored: bool) -> Array:
    if image.mode in ("CMYK", "YCCK", "LAB", "HSV"):
        raise UserError(f"{path}: {image.mode} colours need a profile to be shown; convert it to RGB")
    if facts.bits > 8:
        raise UserError(
            f"{path}: more than 8 bits per channel ({image.mode}); convert it to 8 bits, with the scaling you choose"
        )
    _check_packing(path, facts)
    if stored and facts.orientation != 1:
        raise UserError(f"{path}: TIFF with an orientation; save it as PNG without orientation, rotated like its mask")
    opaque = _opaque(path, image if stored else _upright(image, fits))
    return np.ascontiguousarray(np.asarray(opaque.convert("RGB"))[..., ::-1])


def _mask(path: Path, image: Image.Image, facts: _Facts) -> Mask:
    advice = "save it as 8-bit grey PNG"
    _check_packing(path, facts)
    if facts.lossy:
        raise UserError(f"{path}: TIFF with lossy compression; masks must be lossless: create it again, and {advice}")
    if facts.inverted:
        raise UserError(f"{path}: TIFF in which 0 is white; programs read its ids in different ways; {advice}")
    if facts.orientation != 1 or image.getexif().get(ORIENTATION, 1) != 1:
        raise UserError(f"{path}: a mask with an EXIF orientation; {advice} without this tag, rotated like its image")
    if image.mode == "P":
        palette = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return Mask(np.array(image), palette, bits=facts.bits)
    if image.mode == "1":
        return Mask(np.asarray(image).astype(np.uint8), bits=1)
    if image.mode.startswith("I;16"):
        return Mask(np.array(image).astype(np.uint16), bits=16)
    if image.mode == "L":  # Pillow scales 2 and 4 bits to 0..255
        return Mask(np.asarray(image) // np.uint8(scale(facts.bits)), bits=facts.bits)
    if image.mode in ("LA", "RGB", "RGBA") and facts.bits <= 8:
        opaque = _opaque(path, image)
        return Mask(np.array(opaque.getchannel("R") if image.mode == "LA" else opaque.convert("RGB")))
    raise UserError(
        f"{path}: mode {image.mode}, {facts.bits} bits; allowed: one channel of ids, a palette, or RGB; {advice}"
    )


def is_lossy(path: Path) -> bool:
    """Whether a file is an image in a lossy format."""
    try:
        with Image.open(path) as image:
            return image.format in LOSSY
    except (OSError, ValueError):  # read_mask reports the error
        return False


def scale(bits: int) -> int:
    """The factor that scales values of 1, 2, 4 or 8 bits to 8 bits: 255, 85, 17 or 1."""
    return 255 // ((1 << bits) - 1)


def _check_packing(path: Path, facts: _Facts) -> None:
    if facts.packed:
        raise UserError(f"{path}: grey BMP of less than 8 bits, which Pillow decodes wrongly; save it as 8-bit PNG")


def _opaque(path: Path, image: Image.Image) -> Image.Image:
    """The image as RGBA if it has an alpha channel, which must be opaque; else unchanged."""
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema() != (255, 255):
        raise UserError(f"{path}: has transparent pixels, whose colour is undefined; flatten it onto a background")
    return rgba


def _upright(image: Image.Image, fits: tuple[int, int] | None) -> Image.Image:
    """The image, rotated by its EXIF orientation unless only the stored size fits the mask."""
    stored = (image.height, image.width)
    swaps = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    if swaps and fits == stored and fits != stored[::-1]:
        return image
    return ImageOps.exif_transpose(image)
