"""Whether a file has the length in its header. FFmpeg reads a file that was cut off without an error."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_SLACK = 16  # bytes; some writers count their own header twice
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
#: First bytes of a file, and its last bytes.
_ENDS = {b"GIF8": b";", b"\x89PNG": b"IEND\xaeB`\x82"}
_TAIL = 16  # bytes at the end that are read; some writers add a few zeros
_BOXES = 1_000_000  # a day of fragments; ends the walk through a file of zeros


def missing_bytes(path: Path) -> int:
    """The smallest number of bytes that a file lacks; 0 if it is whole, or its format has no length (MPEG-TS, raw
    streams).

    The length comes from the boxes of MP4 and MOV, the segment of Matroska and WebM, the first chunk of AVI, and the
    metadata of FLV if they have it. GIF and PNG have a mark at their end.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            head = file.read(4096)
            if head[:4] == b"RIFF":
                end = 8 + struct.unpack("<I", head[4:8].ljust(4, b"\0"))[0]
            elif head[:4] == _EBML:
                end = _segment_end(head)
            elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"):
                end = _boxes_end(file, size)
            elif head[:3] == b"FLV":
                end = _flv_end(head)
            elif head[:4] in _ENDS:
                file.seek(max(0, size - _TAIL))
                return 0 if file.read().rstrip(b"\0").endswith(_ENDS[head[:4]]) else 1
            else:
                return 0
    except (OSError, struct.error):
        return 0
    return end - size if end > size + _SLACK else 0


def _segment_end(head: bytes) -> int:
    at = head.find(_SEGMENT)
    if at < 0 or at + 5 > len(head):
        return 0
    first = head[at + 4]
    width = 9 - first.bit_length()  # the leading zeros of the first byte give the number of bytes
    field = head[at + 4 : at + 4 + width]
    if width > 8 or len(field) < width:
        return 0
    mask = (1 << 7 * width) - 1
    length = int.from_bytes(field, "big") & mask
    return 0 if length == mask else at + 4 + width + length  # all ones: unknown, as in a live recording


def _flv_end(head: bytes) -> int:
    _, key, value = head.partition(b"filesize\x00")  # a number of AMF0; 0 while it is recorded
    size = float(struct.unpack(">d", value[:8])[0]) if key else 0.0
    return int(size) if 0 < size < 2**53 else 0


def _boxes_end(file: BinaryIO, size: int) -> int:
    at = 0
    for _ in range(_BOXES):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return at
        length = int(struct.unpack(">I", head[:4])[0])
        if length == 1 and len(head) == 16:
            length = int(struct.unpack(">Q", head[8:])[0])
        if length < 8:  # 0: to the end of the file
            return size
        at += length
        if at > size:
            return at
    return size
