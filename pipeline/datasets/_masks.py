"""From ids or colours in a mask to train ids; every unknown value is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.datasets._images import Mask, scale
from pipeline.datasets._palettes import Colour, colour, ids_of, is_grey
from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.labels import LabelSpec

UNKNOWN = -1
SHOWN = 8  # unknown values that a message names


@dataclass(frozen=True)
class Coding:
    """How the masks of a data set encode classes.

    Args:
        ids: train id of each id that a mask of one channel may hold; None: such masks are refused.
        colours: train id of each RGB colour that a mask may hold; None: colour masks are refused, and the entries of an
            indexed mask are ids.
        rest: train id of all other values; None: another value is an error.
        allowed: end of the error message about an unknown value.
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

    def decode(self, path: Path, mask: Mask, *, labels: LabelSpec | None = None, mixed: bool = False) -> Array:
        """Train ids (H, W) uint8 of a mask.

        Args:
            labels: classes and their colours; the palette of an indexed mask of ids must not contradict them.
            mixed: the masks of the data set differ in bit depth: a PNG optimiser may have reduced the bits of some.

        Raises:
            UserError: an id or a colour has no meaning, the mask is of the wrong kind, or it can be read in two ways.
                The message begins with ``path``.
        """
        if mask.values.ndim == 3 and self.colours is None and (mask.values == mask.values[..., :1]).all():
            return self._of_ids(path, mask.values[..., 0])  # ids in three equal channels
        if mask.values.ndim == 3:
            return self._of_colours(path, mask.values)
        if mask.palette is not None and self.colours is not None:
            return self._of_palette(path, mask.values, mask.palette)
        if self.ids is None:
            return self._of_greys(path, mask)
        if mask.palette is not None:
            return self._of_ids(path, ids_of(path, mask.values, mask.palette, ids=self.ids, labels=labels))
        return self._of_ids(path, self._unscaled(path, mask, mixed) if mask.bits < 8 else mask.values)

    def _unscaled(self, path: Path, mask: Mask, mixed: bool) -> npt.NDArray[np.integer]:
        """Ids of a grey mask of 1, 2 or 4 bits: the stored values, or those scaled to 8 bits if only these are ids.

        In PNG, white of 1 bit equals white of 8 bits, so an optimiser may store 0 and 255 as 0 and 1.
        """
        assert self.ids is not None
        stored = np.unique(mask.values).tolist()
        scaled = [value * scale(mask.bits) for value in stored]
        if stored == scaled or not set(scaled) <= set(self.ids):
            return mask.values
        if mixed and set(stored) <= set(self.ids):
            raise UserError(
                f"{path}: {mask.bits} bits per pixel, but other masks have more: {_some(stored)} may mean "
                f"{_some(scaled)}, as PNG optimisers store them, and all of these are ids; save it with 8 bits"
            )
        return mask.values if set(stored) <= set(self.ids) else mask.values * np.uint8(scale(mask.bits))

    def _of_greys(self, path: Path, mask: Mask) -> Array:
        """Train ids of a grey mask by its colours, usually black and white."""
        if mask.bits > 8:
            raise UserError(f"{path}: {mask.bits} bits per pixel; allowed: colours of 8 bits: RGB, grey or indexed")
        greys = mask.values * np.uint8(scale(mask.bits))
        try:
            return self._of_colours(path, np.stack([greys] * 3, -1))
        except UserError as error:
            raise UserError(f"{error}; if the values are class ids, set masks_hold: ids") from error

    def _of_ids(self, path: Path, values: npt.NDArray[np.integer]) -> Array:
        label = self._table[values]
        if label.min(initial=0) == UNKNOWN:
            unknown = np.unique(values[label == UNKNOWN])
            raise UserError(f"{path}: unknown label ids {_some(unknown.tolist())}; {self.allowed}")
        return np.asarray(label, np.uint8)

    def _of_palette(self, path: Path, values: Array, palette: Array) -> Array:
        """Train ids of an indexed mask by the colours of its entries, or by its greys if all of them are ids."""
        used = np.unique(values)
        if used.max(initial=0) >= len(palette):
            raise UserError(
                f"{path}: palette entries up to {used.max()}, but the palette has {len(palette)} entries; save it again"
            )
        colours = {int(entry): colour(palette[entry]) for entry in used}
        assert self.colours is not None
        if self.ids is not None and is_grey(palette) and all(shown[0] in self.ids for shown in colours.values()):
            return self._of_ids(path, ids_of(path, values, palette, ids=self.ids))
        unknown = [f"{entry} is {shown}" for entry, shown in colours.items() if shown not in self.colours]
        if unknown and self.rest is None:
            raise UserError(f"{path}: palette entries of unknown colour: {_some(unknown)}; {self.allowed}")
        table = np.zeros(256, np.uint8)
        for entry, shown in colours.items():
            table[entry] = self.colours.get(shown, self.rest or 0)
        return np.asarray(table[values], np.uint8)

    def _of_colours(self, path: Path, values: Array) -> Array:
        if self.colours is None:
            raise UserError(
                f"{path}: a colour mask; allowed: class ids in one channel: save them as 8-bit grey PNG (the data set "
                "'folder' reads colours, with masks_hold: colours)"
            )
        train_ids = {r << 16 | g << 8 | b: train for (r, g, b), train in self.colours.items()}
        keys = np.array(sorted(train_ids), np.int32)
        wide = values.astype(np.int32)
        packed = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
        place = np.minimum(np.searchsorted(keys, packed), len(keys) - 1)
        label = np.array([train_ids[int(key)] for key in keys], np.uint8)[place]
        unknown = keys[place] != packed
        if unknown.any():
            if self.rest is None:
                colours = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in np.unique(packed[unknown])]
                raise UserError(f"{path}: unknown colours {_some(colours)}; {self.allowed}")
            label[unknown] = self.rest
        return label


def _some(values: Sequence[object]) -> str:
    shown = ", ".join(map(str, values[:SHOWN]))
    return f"[{shown}]" if len(values) <= SHOWN else f"[{shown}, ... {len(values) - SHOWN} more]"
