"""Whether an image file is whole. Pillow fills what is missing from some damaged files with grey or black, without a
warning; these checks find that.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from functools import partial
from math import ceil

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.frames import PNG_SIGNATURE

#: First column and row, then steps between columns and rows, of the passes of an interlaced PNG. Source: PNG, 8.2.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of the colour types of PNG
END_OF_JPEG = b"\xff\xd9"
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # one that ends the data of a scan
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
SCAN, RESTART_INTERVAL = 0xDA, 0xDD
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
ARITHMETIC = 0xC9  # from this SOF on; such data may lack their last zeros
FILLER = bytes(range(254, 0, -1))  # no 0xFF, so that no marker is in it
STRIPS, STRIP_BYTES, TILES, TILE_BYTES, TABLES, COMPRESSION = 273, 279, 324, 325, 347, 259  # tags of TIFF
JPEG_IN_TIFF = 7


def check_file(image: Image.Image, data: bytes) -> None:
    """Raise ValueError when data are missing or a checksum is wrong.

    Args:
        image: as Pillow opened it from ``data``.
    """
    if image.format == "PNG":
        _check_png(data)
    elif image.format in ("JPEG", "MPO"):
        _check_jpeg(data, image.tobytes)
    elif isinstance(image, TiffImageFile):
        _check_tiff(image, data)


def _check_png(data: bytes) -> None:
    at, kind, pixels = len(PNG_SIGNATURE), b"", 0
    inflate = zlib.decompressobj()
    expected = _inflated_size(data)
    while kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError("truncated: it ends before its last chunk")
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data):
            raise ValueError(f"truncated: chunk {kind.decode('latin-1')!r} is longer than the file")
        if zlib.crc32(memoryview(data)[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"damaged: checksum of chunk {kind.decode('latin-1')!r}")
        if kind == b"IDAT" and pixels < expected:
            pixels += len(inflate.decompress(memoryview(data)[at + 8 : end], expected - pixels))
        at = end + 4
    if pixels < expected:
        raise ValueError(f"truncated: {pixels} of {expected} bytes of pixels")


def _inflated_size(data: bytes) -> int:
    """Bytes of the rows of a PNG, with the filter byte that each begins with."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * CHANNELS.get(colour, 0)
    if not interlaced:
        return int(height * (1 + (width * bits + 7) // 8))
    size = 0
    for left, top, across, down in PASSES:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        size += rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0
    return size


def _check_jpeg(data: bytes, pixels: Callable[[], bytes]) -> None:
    """Follow the markers to the end of the first picture, then see whether its last scan has all of its data.

    libjpeg takes an end marker that comes too early for the end, and fills the rest with grey. So it decodes a copy
    with more bytes before that marker: they change no pixel of a picture that is whole.
    """
    kind, end, left = _scans(data)
    if left:
        raise ValueError(f"truncated: scans are missing ({left} coefficients are not complete)")
    if kind < ARITHMETIC and pixels() != _decoded(data[:end] + FILLER + END_OF_JPEG):
        raise ValueError("truncated: the data end before the picture does")


def _scans(data: bytes) -> tuple[int, int, int]:
    """Kind of a JPEG (its SOF marker), place of its end marker, and coefficients whose last bits are in no scan."""
    at, kind, interval, header = 2, 0, 0, b""
    coarse: dict[tuple[int, int], int] = {}  # component, coefficient -> bits that are still missing
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise ValueError("damaged: no marker where one must be")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == END_OF_JPEG[1]:
            break
        (length,) = struct.unpack_from(">H", data, at + 2)
        segment = data[at + 4 : at + 2 + length]
        if marker in FRAMES:
            kind, header = marker, segment
            coefficients = range(64) if kind in PROGRESSIVE else range(1)
            coarse = {(part, place): 1 for part in segment[6::3][: segment[5]] for place in coefficients}
        elif marker == RESTART_INTERVAL:
            (interval,) = struct.unpack(">H", segment)
        at += 2 + length
        if marker == SCAN:
            parts = segment[1::2][: segment[0]]
            for part in parts:
                first, last, bits = segment[-3:] if kind in PROGRESSIVE else (0, 0, 0)
                coarse |= {(part, place): bits & 15 for place in range(first, last + 1)}
            found = MARKER.search(data, at)
            if not found:
                raise ValueError("truncated: no end marker")
            if interval and len(RESTART.findall(data, at, found.start())) < (_blocks(header, parts) - 1) // interval:
                raise ValueError("truncated: restart markers are missing")
            at = found.start()
    else:
        if data[at : at + 2] != END_OF_JPEG:
            raise ValueError("truncated: no end marker")
    return kind, at, sum(1 for bits in coarse.values() if bits)


def _blocks(header: bytes, parts: bytes) -> int:
    """Units (MCU) in a scan of some components. Source: ISO 10918-1, A.2."""
    height, width = map(int, struct.unpack_from(">HH", header, 1))
    sampling = {part: (factors >> 4, factors & 15) for part, factors in zip(header[6::3], header[7::3], strict=True)}
    across, down = (max(each[place] for each in sampling.values()) for place in (0, 1))
    if len(parts) > 1:  # interleaved
        return ceil(width / (8 * across)) * ceil(height / (8 * down))
    own = sampling[parts[0]]
    return ceil(ceil(width * own[0] / across) / 8) * ceil(ceil(height * own[1] / down) / 8)


def _decoded(data: bytes) -> bytes:
    with JpegImageFile(io.BytesIO(data)) as image:
        return image.tobytes()


def _check_tiff(image: TiffImageFile, data: bytes) -> None:
    """Every strip or tile must lie in the file; one that is a JPEG must be whole."""
    tags = image.tag_v2
    starts = tags.get(STRIPS) or tags.get(TILES) or ()
    sizes = tags.get(STRIP_BYTES) or tags.get(TILE_BYTES) or ()
    for start, size in zip(starts, sizes, strict=False):
        if start + size > len(data):
            raise ValueError("truncated: a strip is longer than the file")
        if tags.get(COMPRESSION) == JPEG_IN_TIFF:
            strip = b"\xff\xd8" + tags.get(TABLES, b"")[2:-2] + data[start + 2 : start + size]
            _check_jpeg(strip, partial(_decoded, strip))
