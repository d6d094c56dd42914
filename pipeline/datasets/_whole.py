"""Check that an image file is complete.

For some damaged files, Pillow fills the missing part with grey or black, without a warning. These checks find them.
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
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # a marker that ends the data of a scan
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
SCAN, RESTART_INTERVAL = 0xDA, 0xDD
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
ARITHMETIC = 0xC9  # this and higher SOF markers: arithmetic coding, which may omit trailing zeros
FILLER = bytes(range(254, 0, -1))  # without 0xFF, so it contains no marker
STRIPS, STRIP_BYTES, TILES, TILE_BYTES, TABLES, COMPRESSION = 273, 279, 324, 325, 347, 259  # tags of TIFF
JPEG_IN_TIFF = 7


def check_file(image: Image.Image, data: bytes) -> None:
    """Raise ValueError if data are missing or a checksum is wrong.

    Args:
        image: the image that Pillow opened from ``data``.
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
            raise ValueError("truncated: the file ends before its last chunk")
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data):
            raise ValueError(f"truncated: chunk {kind.decode('latin-1')!r} is longer than the file")
        if zlib.crc32(memoryview(data)[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"damaged: wrong checksum of chunk {kind.decode('latin-1')!r}")
        if kind == b"IDAT" and pixels < expected:
            pixels += len(inflate.decompress(memoryview(data)[at + 8 : end], expected - pixels))
        at = end + 4
    if pixels < expected:
        raise ValueError(f"truncated: {pixels} of {expected} bytes of pixels")


def _inflated_size(data: bytes) -> int:
    """Number of bytes in the rows of a PNG after decompression, including the filter byte of each row."""
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
    """Follow the markers to the end of the first image, then check that its last scan is complete.

    If the end marker comes too early, libjpeg accepts it and fills the rest with grey. Therefore this function also
    decodes a copy with more bytes before the end marker: in a complete image they change no pixel.
    """
    kind, end, incomplete = _scans(data)
    if incomplete:
        raise ValueError(f"truncated: scans are missing ({incomplete} coefficients are incomplete)")
    if kind < ARITHMETIC and pixels() != _decoded(data[:end] + FILLER + END_OF_JPEG):
        raise ValueError("truncated: the data end before the image is complete")


def _scans(data: bytes) -> tuple[int, int, int]:
    """SOF marker of a JPEG, offset of its end marker, and number of coefficients whose last bits are in no scan."""
    at, kind, interval, header = 2, 0, 0, b""
    missing: dict[tuple[int, int], int] = {}  # (component, coefficient) -> number of bits that are still missing
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise ValueError("damaged: a marker is missing")
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
            missing = {(part, place): 1 for part in segment[6::3][: segment[5]] for place in coefficients}
        elif marker == RESTART_INTERVAL:
            (interval,) = struct.unpack(">H", segment)
        at += 2 + length
        if marker == SCAN:
            parts = segment[1::2][: segment[0]]
            for part in parts:
                first, last, bits = segment[-3:] if kind in PROGRESSIVE else (0, 0, 0)
                missing |= {(part, place): bits & 15 for place in range(first, last + 1)}
            end = MARKER.search(data, at)
            if not end:
                raise ValueError("truncated: no end marker")
            if interval and len(RESTART.findall(data, at, end.start())) < (_blocks(header, parts) - 1) // interval:
                raise ValueError("truncated: restart markers are missing")
            at = end.start()
    else:
        if data[at : at + 2] != END_OF_JPEG:
            raise ValueError("truncated: no end marker")
    return kind, at, sum(1 for bits in missing.values() if bits)


def _blocks(header: bytes, parts: bytes) -> int:
    """Number of units (MCU) in a scan of the components ``parts``. Source: ISO 10918-1, A.2."""
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
    """Every strip and tile must be inside the file; if it is a JPEG, it must be complete."""
    tags = image.tag_v2
    starts = tags.get(STRIPS) or tags.get(TILES) or ()
    sizes = tags.get(STRIP_BYTES) or tags.get(TILE_BYTES) or ()
    for start, size in zip(starts, sizes, strict=False):
        if start + size > len(data):
            raise ValueError("truncated: a strip or tile ends after the file")
        if tags.get(COMPRESSION) == JPEG_IN_TIFF:
            strip = b"\xff\xd8" + tags.get(TABLES, b"")[2:-2] + data[start + 2 : start + size]
            _check_jpeg(strip, partial(_decoded, strip))
