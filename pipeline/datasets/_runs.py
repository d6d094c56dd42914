"""Masks as run lengths, in the formats of COCO, CVAT and Label Studio."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets._shapes import Mask, Size
from pipeline.errors import UserError


def runs(counts: Any, size: Size, *, by_column: bool) -> Mask:
    """Pixels (H, W) of run lengths. Runs alternate; the first run is outside the shape.

    Args:
        counts: the run lengths, in pixels.
        by_column: runs follow the columns, as in COCO; else the rows, as in CVAT.

    Raises:
        UserError: run lengths are not integers of at least 0, or their sum is not height x width.
    """
    try:
        lengths = np.array([int(count) for count in counts], np.int64)
    except (TypeError, ValueError, OverflowError):
        raise UserError("run lengths must be integers") from None
    if (lengths < 0).any() or int(lengths.sum()) != size[0] * size[1]:
        raise UserError(
            f"the run lengths sum to {int(lengths.sum())}; a mask of {size[0]}x{size[1]} needs {size[0] * size[1]}"
        )
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(size[::-1]).T if by_column else flat.reshape(size)


def expanded(text: str) -> npt.NDArray[np.int64]:
    """Run lengths of COCO's compressed string.

    The code of a character minus 48 holds 5 bits of a number, lowest bits first; bit 5 (value 32) is set if more
    characters of the number follow. In the last character of a number, bit 4 (value 16) is the sign. From the fourth
    number on, the string stores the difference to the number two places before.

    Raises:
        UserError: the text has other characters, or ends inside a number.

    Example:
        >>> expanded("52203").tolist()
        [5, 2, 2, 2, 5]
    """
    codes = np.frombuffer(text.encode("latin-1", "replace"), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise UserError("damaged run lengths; export it again")
    counts: list[int] = []
    value = shift = 0
    for code in codes.tolist():
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code >> 4 & 1) << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if max(map(abs, counts)) >= 1 << 40:
        raise UserError("damaged run lengths; export it again")
    return np.array(counts, np.int64)


def brush(data: Any, size: Size) -> Mask:
    """Pixels (H, W) of Label Studio's brush: the pixels with more than half of the opacity.

    The data are a stream of bits. The header is: number of values (32 bits), bits per value minus 1 (5 bits), and four
    bit lengths of counts minus 1 (4 bits each). Then blocks follow: 1 bit that says whether one value is repeated, 2
    bits that choose the bit length of the count, the count minus 1, and the values (one value if it is repeated). The
    values are RGBA, row by row; only A, the opacity, is used.

    Source: @thi.ng/rle-pack, the library that Label Studio uses.

    Raises:
        UserError: the data are not bytes, are truncated, or have another size.
    """
    try:
        bits = Bits(bytes(list(data)))  # list(): bytes(5) would be five zeros
    except (TypeError, ValueError):
        raise UserError("a brush's rle must be a list of bytes") from None
    number, word = bits.read(32), bits.read(5) + 1
    lengths = [bits.read(4) + 1 for _ in range(4)]
    if number != size[0] * size[1] * 4 or word != 8:
        raise UserError(
            f"a brush of {number} values of {word} bits; an image of {size[0]}x{size[1]} needs "
            f"{size[0] * size[1] * 4} values of 8 bits"
        )
    values = np.zeros(number, np.uint8)
    at = 0
    while at < number:
        repeated = bits.read(1)
        end = at + 1 + bits.read(lengths[bits.read(2)])
        if end > number:
            raise UserError("a damaged brush: it has more values than its header declares; export it again")
        values[at:end] = bits.read(word) if repeated else [bits.read(word) for _ in range(end - at)]
        at = end
    return values.reshape(*size, 4)[..., 3] > 127


class Bits:
    """Reads numbers of a few bits, the highest bit first."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def read(self, count: int) -> int:
        """The next number. Raises UserError at the end of the data."""
        end = self.at + count
        if end > 8 * len(self.data):
            raise UserError("a damaged brush: it is truncated; export it again")
        first, last = self.at // 8, -(-end // 8)
        value = int.from_bytes(self.data[first:last], "big") >> (8 * last - end)
        self.at = end
        return value & ((1 << count) - 1)
