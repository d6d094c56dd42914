"""Shared by the data sets of the PASCAL VOC family: the folders of the development kit and its colour map."""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets._pairs import root_folder
from pipeline.datasets._palettes import Colour
from pipeline.licence import Licence

#: Terms of the images of all years. Source: "Database rights" on the page.
FLICKR = Licence(
    name="PASCAL VOC terms",
    url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    note="the images are from Flickr, and their use must respect the terms of Flickr; each has its owner's licence",
)


def colour_map(count: int) -> tuple[Colour, ...]:
    """The first ``count`` colours of VOC's colour map, RGB.

    Bits 0, 1 and 2 of the index are the highest bits of r, g and b; bits 3, 4 and 5 are the next lower bits, and so on.

    Source: VOCcode/VOClabelcolormap.m of the development kit.

    Example:
        >>> colour_map(4)
        ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    """
    return tuple((_channel(index, 0), _channel(index, 1), _channel(index, 2)) for index in range(count))


def _channel(index: int, channel: int) -> int:
    return sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3))


def development_kit(plugin: str, root: str | None, *, year: str) -> Path:
    """The folder ``VOC<year>`` that contains JPEGImages: the root, or below it, with or without ``VOCdevkit``.

    Raises:
        UserError: the option ``root`` is not set, or is not a folder.
    """
    base = root_folder(plugin, root, holds=f"VOCdevkit/VOC{year}")
    for folder in (base / "VOCdevkit" / f"VOC{year}", base / f"VOC{year}"):
        if folder.is_dir():
            return folder
    return base
