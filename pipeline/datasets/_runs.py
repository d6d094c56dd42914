"""Masks as run lengths: of COCO, CVAT and Label Studio."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets._shapes import Mask, Size
from pipeline.errors import UserError


def runs(counts: Any, size: Size, *, by_column: bool) -> Mask:
    """(H, W) pixels of alternating runs, the first of them outside the shape.

    Args:
        by_column: runs go down the columns, as in COCO; else along the rows, as in CVAT.

    Raises:
        UserError: counts are no whole numbers from 0 up, or do not fill the mask exactly.
    """
    try:
        lengths = np.array([int(count) for count in counts], np.int64)
    except (TypeError, ValueError, OverflowError):
        raise UserError("run lengths must be whole numbers") from None
    if (lengths < 0).any() or int(lengths.sum()) != size[0] * size[1]:
        raise UserError(
            f"run lengths that sum to {int(lengths.sum())}; a mask of {size[0]}x{size[1]} needs {size[0] * size[1]}"
        )
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(size[::-1]).T if by_column else flat.reshape(size)


def expanded(text: str) -> npt.NDArray[np.int64]:
    """Run lengths of COCO's compressed string.

    A character holds 5 bits, lowest first, in its code less 48, and 32 when more follow; bit 16 of the last is the
    sign. From the fourth number on, each is the difference to the one before the last.

    Raises:
        UserError: other characters, or cut inside a number.

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
    """(H, W) pixels of Label Studio's brush: those with more than half of the opacity.

    The bytes hold, bit by bit: 32 bits number of values, 5 bits length of a value less 1, four times 4 bits length of
    a count less 1; then blocks of 1 bit "one value, repeated" or "values as they are", 2 bits which length the count
    has, the count less 1, and the values. The values are RGBA, row by row; the opacity counts.

    Source: @thi.ng/rle-pack, which Label Studio writes with.

    Raises:
        UserError: no bytes, cut, or of another size.
    """
    try:
        bits = Bits(bytes(list(data)))  # of a list: a number alone would mean that many zeros
    except (TypeError, ValueError):
        raise UserError("a brush's rle must be a list of bytes") from None
    number, word = bits.read(32), bits.read(5) + 1
    lengths = [bits.read(4) + 1 for _ in range(4)]
    if number != size[0] * size[1] * 4 or word != 8:
        raise UserError(
            f"a brush of {number} values of {word} bits; {size[0]}x{size[1]} RGBA needs {size[0] * size[1] * 4} of 8"
        )
    values = np.zeros(number, np.uint8)
    at = 0
    while at < number:
        repeated = bits.read(1)
        end = at + 1 + bits.read(lengths[bits.read(2)])
        if end > number:
            raise UserError("a damaged brush: it holds more values than it says")
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
            raise UserError("a damaged brush: it is cut")
        first, last = self.at // 8, -(-end // 8)
        value = int.from_bytes(self.data[first:last], "big") >> (8 * last - end)
        self.at = end
        return value & ((1 << count) - 1)
