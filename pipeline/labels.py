"""Class names, colours, the ignored id and the original ids of a data set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import normalize

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError

IGNORE_INDEX = 255
#: Train ids are 8 bits, and one of them is ignored.
MOST_CLASSES = 255
CONTROLS = frozenset(map(chr, (*range(32), *range(127, 160), 0x2028, 0x2029)))
HEX = re.compile(r"#(?:[0-9a-fA-F]{3}|[0-9a-fA-F]{6})")


def rgb(colour: str | Sequence[int]) -> tuple[int, int, int]:
    """A colour as three integers, from ``[128, 0, 255]``, ``"#8000ff"`` or the short ``"#80f"``.

    Raises:
        UserError: anything else.

    Example:
        >>> rgb("#8000ff"), rgb([128, 0, 255])
        ((128, 0, 255), (128, 0, 255))
    """
    if isinstance(colour, str) and HEX.fullmatch(colour):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        return int(digits[0:2], 16), int(digits[2:4], 16), int(digits[4:6], 16)
    if isinstance(colour, str) or len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
        raise UserError(f'got {colour!r}; allowed: [red, green, blue] with integers in 0..255, or "#rrggbb" in quotes')
    red, green, blue = colour
    return red, green, blue


@dataclass(frozen=True)
class LabelSpec:
    """What the train ids ``0 .. len(names) - 1`` mean.

    Args:
        names: class names in train-id order; kept in composed Unicode, so that the same name is the same string.
        palette: one RGB colour a class.
        ignore_index: id of pixels that count nowhere.
        original_ids: id of each class in the data set's own masks, as test servers want it; None: it has none, or
            masks of more than 8 bits.
        original_ignored: what ignored pixels have there; given with ``original_ids``.

    Raises:
        UserError: names repeat, or palette or original ids do not match them.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int = IGNORE_INDEX
    original_ids: tuple[int, ...] | None = None
    original_ignored: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(normalize("NFC", name) for name in self.names))
        if len(set(self.names)) != len(self.names) or not self.names:
            raise UserError(f"class names must be unique and not empty; got {list(self.names)}")
        if unclear := [name for name in self.names if not name.strip() or set(name) & CONTROLS]:
            raise UserError(f"class names must not be blank or hold control characters; got {unclear}")
        if len(self.names) > MOST_CLASSES:
            raise UserError(
                f"{len(self.names)} classes; at most {MOST_CLASSES} are possible, because a train id has 8 bits and "
                "255 is the ignored one; merge classes: several ids may stand for one"
            )
        if len(self.palette) != len(self.names):
            raise UserError(f"palette has {len(self.palette)} colours for {len(self.names)} classes; give one each")
        if any(len(colour) != 3 or not all(0 <= c <= 255 for c in colour) for colour in self.palette):
            raise UserError("palette: every colour is three integers in 0..255")
        if 0 <= self.ignore_index < len(self.names) or not 0 <= self.ignore_index <= 255:
            raise UserError(f"ignore_index {self.ignore_index} must lie in {len(self.names)}..255")
        if (self.original_ids is None) != (self.original_ignored is None):
            raise UserError("original_ids and original_ignored are given together or not at all")
        if self.original_ids is not None and self.original_ignored is not None:
            ids = (*self.original_ids, self.original_ignored)
            if len(self.original_ids) != len(self.names):
                raise UserError(f"original_ids has {len(ids) - 1} ids for {len(self.names)} classes; give one each")
            if len(set(ids)) != len(ids) or not all(0 <= i <= 255 for i in ids):
                given = f"original_ids {list(ids[:-1])}, original_ignored {ids[-1]}"
                raise UserError(f"{given}; allowed: integers in 0..255, no two alike")

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def shortage(self, split: str, pixels: Sequence[int]) -> str | None:
        """Why a network cannot learn from a split, or be measured on it; None: it can.

        Args:
            pixels: (K,) labelled pixels of each class in the split.

        Example:
            >>> labels = LabelSpec(("road", "car"), ((0, 0, 0), (9, 9, 9)))
            >>> labels.shortage("val", [5, 0])
            "split val: every labelled pixel is 'road'; it must show two classes or more"
            >>> labels.shortage("val", [5, 1])
        """
        shown = [name for name, count in zip(self.names, pixels, strict=True) if count]
        if not shown:
            return f"split {split}: no pixel of it has a class, all are ignored; it must show two classes or more"
        if len(shown) == 1:
            return f"split {split}: every labelled pixel is '{shown[0]}'; it must show two classes or more"
        return None

    def to_meta(self) -> dict[str, Any]:
        meta: dict[str, Any] = {
            "classes": list(self.names),
            "palette": [list(colour) for colour in self.palette],
            "ignore_index": self.ignore_index,
        }
        if self.original_ids is not None:
            meta |= {"original_ids": list(self.original_ids), "original_ignored": self.original_ignored}
        return meta

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> LabelSpec:
        """Read what :meth:`to_meta` wrote. Raises UserError when a fact is missing or of another type."""
        original: dict[str, Any] = {}
        try:
            if "original_ids" in meta or "original_ignored" in meta:
                original["original_ids"] = tuple(int(value) for value in meta["original_ids"])
                original["original_ignored"] = int(meta["original_ignored"])
            return cls(
                names=tuple(str(name) for name in meta["classes"]),
                palette=tuple((int(r), int(g), int(b)) for r, g, b in meta["palette"]),
                ignore_index=int(meta["ignore_index"]),
                **original,
            )
        except UserError:
            raise
        except KeyError as error:
            needed = "classes, palette and ignore_index, and both original_ids and original_ignored or neither"
            raise UserError(f"no {error} there; a label set has {needed}") from error
        except (TypeError, ValueError) as error:
            raise UserError(f"classes, palette, ignore_index or an original id is of a wrong type ({error})") from error

    def to_original(self) -> npt.NDArray[np.uint8]:
        """Original id of every train id, ready for cv2.LUT: shape (256,); what is no class counts as ignored.

        Raises:
            UserError: these labels have no original ids.

        Example:
            >>> road = LabelSpec(("road",), ((128, 64, 128),), original_ids=(7,), original_ignored=0)
            >>> road.to_original()[[0, 0, 255]].tolist()
            [7, 7, 0]
        """
        if self.original_ids is None:
            raise UserError(
                "these classes have no original ids: their data set has none, or they were merged, or the artifact was "
                "made by an earlier version (then run dvc repro, or describe a foreign network's original_ids); "
                "write train ids instead"
            )
        table = np.full(256, self.original_ignored, np.uint8)
        table[: self.num_classes] = self.original_ids
        return table

    def lookup_bgr(self) -> npt.NDArray[np.uint8]:
        """Colour of every possible id as BGR, ready for cv2.LUT.

        Shape (256, 1, 3); unknown and ignored ids are black.
        """
        table = np.zeros((256, 1, 3), np.uint8)
        table[: self.num_classes, 0] = np.asarray(self.palette, np.uint8)[:, ::-1]
        return table
