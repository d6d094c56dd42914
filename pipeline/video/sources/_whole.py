"""Whether a file is as long as its own header says: FFmpeg reads what was cut off to its last packet without a word."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_SLACK = 16  # bytes; some writers count their own header twice
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_BOXES = 1_000_000  # a day of fragments; ends the walk through a file of zeros


def missing_bytes(path: Path) -> int:
    """Bytes that the file lacks; 0 when it is whole, or of a kind that does not tell (MPEG-TS, raw streams, FLV).

    Kinds that tell: MP4 and MOV by their boxes, Matroska and WebM by their segment, AVI by its first chunk.
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
    width = 9 - first.bit_length()  # the leading zeros of the first byte say how many follow
    field = head[at + 4 : at + 4 + width]
    if width > 8 or len(field) < width:
        return 0
    mask = (1 << 7 * width) - 1
    length = int.from_bytes(field, "big") & mask
    return 0 if length == mask else at + 4 + width + length  # all ones: nobody knew, as while it is recorded


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
