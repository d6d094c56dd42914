"""The order of files whose names hold numbers."""

from __future__ import annotations

import re
from pathlib import Path

#: A time in seconds since 1970 with decimals of any length, or a whole number.
_NUMBER = re.compile(r"([0-9]{9,}\.[0-9]+|[0-9]+)")

Key = tuple[tuple[tuple[str | int, ...], ...], str]


def natural_order(path: Path) -> Key:
    """Sort key of a path: numbers in names count as numbers, so ``frame_2`` comes before ``frame_10``.

    Folders are compared first, one after the other, then the name without its suffix. Equal numbers (``1`` and ``01``)
    are ordered by their characters. In ``1305031102.5`` and ``1305031102.25``, times in seconds, the second number is a
    decimal fraction.

    Example:
        >>> [path.name for path in sorted(map(Path, ["f10.png", "f2.png", "f.png"]), key=natural_order)]
        ['f.png', 'f2.png', 'f10.png']
    """
    return tuple(_tokens(part) for part in (*path.parent.parts, path.stem)), str(path)


def _tokens(name: str) -> tuple[str | int, ...]:
    """Texts at even places and numbers at odd places, so that equal places can be compared."""
    tokens: list[str | int] = []
    for place, part in enumerate(_NUMBER.split(name)):
        if place % 2:
            whole, _, fraction = part.partition(".")
            # a fraction is compared as text, which is the order of decimals
            tokens += [int(whole), f".{fraction}" if fraction else "", 0]
        else:
            tokens.append(part)
    return tuple(tokens)
