"""What the data sets of the PASCAL VOC family share: the development kit's layout and its colour map."""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets._pairs import root_folder
from pipeline.datasets._palettes import Colour


def colour_map(count: int) -> tuple[Colour, ...]:
    """The first colours of VOC's map, RGB: the bits of an index, three by three, from the highest bit of r, g, b down.

    Source: VOCcode/VOClabelcolormap.m of the development kit.

    Example:
        >>> colour_map(4)
        ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    """
    return tuple((_channel(index, 0), _channel(index, 1), _channel(index, 2)) for index in range(count))


def _channel(index: int, channel: int) -> int:
    return sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3))


def development_kit(plugin: str, root: str | None, *, year: str) -> Path:
    """The folder ``VOC<year>`` that holds JPEGImages: the root itself or below it, with or without ``VOCdevkit``.

    Raises:
        UserError: no root, or nothing of the kind there.
    """
    base = root_folder(plugin, root, holds=f"VOCdevkit/VOC{year}")
    for folder in (base / "VOCdevkit" / f"VOC{year}", base / f"VOC{year}"):
        if folder.is_dir():
            return folder
    return base
