"""What the values of a mask stand for: ids or colours -> train ids, with every unknown one named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.datasets._images import Mask
from pipeline.errors import UserError
from pipeline.frames import Array

Colour = tuple[int, int, int]
UNKNOWN = -1
SHOWN = 8  # unknown values that a message names


@dataclass(frozen=True)
class Coding:
    """How the masks of a data set say which class a pixel has.

    Args:
        ids: train id of each id that a mask of one channel may hold; None: such masks are refused.
        colours: train id of each RGB colour that a mask may hold; None: colour masks are refused, and the palette of
            an indexed mask is not looked at.
        rest: train id of everything else; None: that is a fault.
        allowed: end of the message on an unknown value.
    """

    ids: Mapping[int, int] | None = None
    colours: Mapping[Colour, int] | None = None
    rest: int | None = None
    allowed: str = ""
    _table: npt.NDArray[np.int16] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        table = np.full(1 << 16, UNKNOWN if self.rest is None else self.rest, np.int16)
        for raw, train in (self.ids or {}).items():
            table[raw] = train
        object.__setattr__(self, "_table", table)

    def decode(self, path: Path, mask: Mask) -> Array:
        """Train ids (H, W) uint8 of a mask.

        Raises:
            UserError: an id or a colour that stands for nothing, or masks of another kind; the message begins with
                ``path``.
        """
        if mask.values.ndim == 3:
            return self._of_colours(path, mask.values)
        if mask.palette is not None and self.colours is not None:
            return self._of_palette(path, mask.values, mask.palette)
        if self.ids is None:
            raise UserError(f"{path}: one channel without a palette; colours are needed: RGB or indexed")
        return self._of_ids(path, mask.values)

    def _of_ids(self, path: Path, values: npt.NDArray[np.integer]) -> Array:
        label = self._table[values]
        if label.min(initial=0) == UNKNOWN:
            wrong = np.unique(values[label == UNKNOWN])
            raise UserError(f"{path}: label ids {_some(wrong.tolist())}; {self.allowed}")
        return np.asarray(label, np.uint8)

    def _of_palette(self, path: Path, values: Array, palette: Array) -> Array:
        """By the colours of the entries; a grey ramp is no palette but ids."""
        used = np.unique(values)
        if used.max(initial=0) >= len(palette):
            raise UserError(
                f"{path}: palette entries up to {used.max()}; its palette has {len(palette)}; save it again"
            )
        colours = {int(entry): _colour(palette[entry]) for entry in used}
        assert self.colours is not None
        if self.ids is not None and all(colour == (entry,) * 3 for entry, colour in colours.items()):
            return self._of_ids(path, values)
        wrong = [f"{entry} is {colour}" for entry, colour in colours.items() if colour not in self.colours]
        if wrong and self.rest is None:
            raise UserError(f"{path}: palette entries of unknown colour: {_some(wrong)}; {self.allowed}")
        table = np.zeros(256, np.uint8)
        for entry, colour in colours.items():
            table[entry] = self.colours.get(colour, self.rest or 0)
        return np.asarray(table[values], np.uint8)

    def _of_colours(self, path: Path, values: Array) -> Array:
        if self.colours is None:
            raise UserError(f"{path}: a colour mask; class ids in one channel are needed: save them as 8-bit grey PNG")
        known = {r << 16 | g << 8 | b: train for (r, g, b), train in self.colours.items()}
        keys = np.array(sorted(known), np.int32)
        wide = values.astype(np.int32)
        packed = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
        place = np.minimum(np.searchsorted(keys, packed), len(keys) - 1)
        label = np.array([known[int(key)] for key in keys], np.uint8)[place]
        missed = keys[place] != packed
        if missed.any():
            if self.rest is None:
                wrong = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in np.unique(packed[missed])]
                raise UserError(f"{path}: unknown colours {_some(wrong)}; {self.allowed}")
            label[missed] = self.rest
        return label


def _colour(entry: Array) -> Colour:
    red, green, blue = entry.tolist()
    return red, green, blue


def _some(values: list[object] | list[str] | list[Colour]) -> str:
    shown = ", ".join(map(str, values[:SHOWN]))
    return f"[{shown}]" if len(values) <= SHOWN else f"[{shown}, ... {len(values) - SHOWN} more]"
