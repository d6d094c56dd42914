"""Whether the clock of an MPEG file jumps, as in joined recordings: then its duration is not its length."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import BinaryIO

_SAMPLES = 32  # places of the file at which its clock is read
_WINDOW = 1 << 18  # bytes; a clock value comes every 0.1 s (MPEG-TS) or 0.7 s (MPEG-PS)
_TICKS = 90_000  # of the clock, per second
_WRAP_S = 2**33 / _TICKS  # the clock has 33 bits, and begins again at 0
#: A part of the file with this many times the usual seconds per byte has a jump. Quiet scenes need fewer bytes, too.
_FACTOR = 8.0
_SLACK_S = 1.0  # steps back, and longer steps, that are no jump
_PACKET_SIZES = (188, 192, 204)  # of MPEG-TS: plain, with a time in front (.m2ts), with a checksum
_SYNC = 0x47
_PACK = b"\0\0\1\xba"  # start of a pack of MPEG-PS


def clock_jumps(path: Path) -> bool:
    """Whether the clock of an MPEG-TS or MPEG-PS file jumps. The clock is read at 32 places of the file.

    False for other files, and for files that cannot be read. Jumps that are short compared with the file are not found.
    """
    try:
        with path.open("rb") as file:
            samples = list(_samples(file, path.stat().st_size))
    except OSError:
        return False
    steps = [
        (after - before + (_WRAP_S if after - before < -_WRAP_S / 2 else 0), there - here)
        for (here, before), (there, after) in pairwise(samples)
        if there > here
    ]
    if any(seconds < -_SLACK_S for seconds, _ in steps):
        return True
    usual = median([seconds / size for seconds, size in steps]) if steps else 0.0
    return usual > 0 and any(seconds > _FACTOR * usual * size + _SLACK_S for seconds, size in steps)


def _samples(file: BinaryIO, size: int) -> Iterator[tuple[int, float]]:
    """(position in bytes, clock in seconds) at places that are spread over the file, the last one at its end."""
    for number in range(_SAMPLES):
        start = size * number // _SAMPLES
        file.seek(start)
        clock = next(_clock(file.read(_WINDOW)), None)
        if clock is not None:
            yield start + clock[0], clock[1]
    start = max(0, size - _WINDOW)
    file.seek(start)
    for position, seconds in reversed(list(_clock(file.read(_WINDOW)))):
        yield start + position, seconds
        return


def _clock(data: bytes) -> Iterator[tuple[int, float]]:
    """(position, seconds) of each clock value in a part of a file; nothing for what is neither MPEG-TS nor MPEG-PS."""
    for size in _PACKET_SIZES:
        for start in range(min(size, len(data))):
            if len(data) > start + 8 * size and all(data[start + k * size] == _SYNC for k in range(8)):
                yield from _of_transport(data, start, size)
                return
    at = data.find(_PACK)
    while at >= 0 and at + 10 <= len(data):
        ticks = _of_pack(data[at + 4 : at + 10])
        if ticks is not None:
            yield at, ticks / _TICKS
        at = data.find(_PACK, at + 4)


def _of_transport(data: bytes, start: int, size: int) -> Iterator[tuple[int, float]]:
    """The clock of the first program that has one: PCR, ISO/IEC 13818-1, section 2.4.3.5."""
    program: int | None = None
    for at in range(start, len(data) - size + 1, size):
        has_field, length, flags = data[at + 3] & 0x20, data[at + 4], data[at + 5]
        if data[at] != _SYNC or not has_field or length < 7 or not flags & 0x10:
            continue
        number = int.from_bytes(data[at + 1 : at + 3], "big") & 0x1FFF
        program = number if program is None else program
        if number == program:
            yield at, (int.from_bytes(data[at + 6 : at + 11], "big") >> 7) / _TICKS


def _of_pack(head: bytes) -> int | None:
    """Ticks of a pack's clock (SCR) from the six bytes after its start code; None if they hold none."""
    value = int.from_bytes(head, "big")
    if head[0] >> 6 == 0b01:  # MPEG-2: 2 bits, then 3, 15 and 15 bits of the clock with a marker bit after each
        return (value >> 43 & 0x7) << 30 | (value >> 27 & 0x7FFF) << 15 | value >> 11 & 0x7FFF
    if head[0] >> 4 == 0b0010:  # MPEG-1: 4 bits, then the same in five bytes
        value >>= 8
        return (value >> 33 & 0x7) << 30 | (value >> 17 & 0x7FFF) << 15 | value >> 1 & 0x7FFF
    return None
