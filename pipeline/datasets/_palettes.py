"""Ids of an indexed mask: they are its entries, or the greys of its palette.

Programs that write small PNGs may store grey ids as a palette of greys, in any order; then the grey is the id. With
any other palette the entries are the ids; then the palette must not show a class in the colour of another class.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.labels import IGNORE_INDEX, LabelSpec

Colour = tuple[int, int, int]
BLACK, WHITE = (0, 0, 0), 255
SHOWN = 4  # entries that a message names
COLOURS_ARE_RIGHT = (
    "if its colours are correct, save the classes of the colours as ids (the data set 'folder' can read colours: "
    "masks_hold: colours)"
)
REMEDY = f"if its entries are the ids, save them as 8-bit grey PNG, without a palette; {COLOURS_ARE_RIGHT}"


def is_grey(palette: Array) -> bool:
    """Whether all entries of a palette (n, 3) are greys."""
    return bool((palette == palette[:, :1]).all())


def ids_of(
    path: Path, values: Array, palette: Array, *, ids: Mapping[int, int], labels: LabelSpec | None = None
) -> Array:
    """Ids (H, W) of an indexed mask.

    Args:
        values: (H, W) uint8 entries.
        palette: (n, 3) uint8 RGB.
        ids: train id of each declared id.
        labels: classes and their declared colours; None: no colours are declared.

    Raises:
        UserError: the palette contradicts the declared colours, or the mask can be read in two ways.
    """
    used = {entry: colour(palette[entry]) if entry < len(palette) else None for entry in np.unique(values).tolist()}
    if not is_grey(palette):
        _check_colours(path, used, ids, labels)
        return values
    greys = {entry: shown[0] if shown else -1 for entry, shown in used.items()}
    moved = {entry: grey for entry, grey in greys.items() if entry != grey}
    if all(_agrees(used[entry], ids.get(entry), labels) for entry in moved):
        if moved and all(ids.get(grey, IGNORE_INDEX) != IGNORE_INDEX for grey in moved.values()):
            both = [
                f"{entry} is grey {grey}, the colour of id {entry}, but also an id" for entry, grey in moved.items()
            ]
            raise UserError(f"{path}: grey palette in which entry {_some(both)}; {REMEDY}")
        return values
    errors = [f"{entry} has no colour" for entry, grey in greys.items() if grey < 0]
    firsts = {shown: entry for entry, shown in reversed([*enumerate(palette[:, 0].tolist())])}
    repeated = {entry: firsts[grey] for entry, grey in greys.items() if firsts.get(grey, entry) != entry}
    errors += [f"{entry} is grey {greys[entry]}, as is entry {first}" for entry, first in repeated.items()]
    if errors:
        raise UserError(f"{path}: grey palette in which entry {_some(errors)}; {REMEDY}")
    if set(ids).issuperset(greys):
        unknown = [f"{entry} is grey {grey}" for entry, grey in greys.items() if grey not in ids]
        if unknown:
            raise UserError(f"{path}: grey palette, but its greys are not ids: entry {_some(unknown)}; {REMEDY}")
        if WHITE in greys.values() and {0, WHITE} >= set(greys.values()) and ids[WHITE] == IGNORE_INDEX:
            white = next(entry for entry, grey in greys.items() if grey == WHITE)
            raise UserError(f"{path}: black and white palette: id {WHITE} is ignored, entry {white} is not; {REMEDY}")
    table = np.zeros(256, np.uint8)
    table[list(greys)] = list(greys.values())
    return table[values]


def _agrees(shown: Colour | None, train: int | None, labels: LabelSpec | None) -> bool:
    """Whether an entry has the declared colour of its class."""
    return labels is not None and train is not None and train < labels.num_classes and labels.palette[train] == shown


def _check_colours(
    path: Path, used: Mapping[int, Colour | None], ids: Mapping[int, int], labels: LabelSpec | None
) -> None:
    """Refuse entries whose colour is that of another class. Ignored entries may be black."""
    palette = labels.palette if labels else ()
    owners = {shown: train for train, shown in enumerate(palette) if palette.count(shown) == 1}
    errors = []
    for entry, shown in used.items():
        train = ids.get(entry, IGNORE_INDEX)
        if shown is None or owners.get(shown, train) == train or (shown == BLACK and train == IGNORE_INDEX):
            continue
        assert labels is not None
        name = repr(labels.names[train]) if train < labels.num_classes else "ignored" if entry in ids else "of no class"
        errors.append(f"{entry} is {shown}, the colour of {labels.names[owners[shown]]!r}, but id {entry} is {name}")
    if errors:
        raise UserError(
            f"{path}: its palette contradicts the colours of the classes: entry {_some(errors)}; if its entries are "
            "the ids, declare its colours as those of the classes, or save the entries as 8-bit grey PNG, without a "
            f"palette; {COLOURS_ARE_RIGHT}"
        )


def colour(entry: Array) -> Colour:
    """A palette entry (3,) as integers."""
    red, green, blue = entry.tolist()
    return red, green, blue


def _some(errors: list[str]) -> str:
    more = f" and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    return ", entry ".join(errors[:SHOWN]) + more
