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
#: Train ids have 8 bits, and one of the 256 is the ignored id.
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
    """The meaning of the train ids ``0 .. len(names) - 1``.

    Args:
        names: class names in train-id order; stored in composed Unicode, so that equal names are equal strings.
        palette: one RGB colour per class.
        ignore_index: id of pixels that no loss and no metric counts.
        original_ids: id of each class in the data set's own masks, which test servers expect; None: the data set has no
            such ids, or its masks have more than 8 bits.
        original_ignored: id of ignored pixels in these masks; required with ``original_ids``.

    Raises:
        UserError: names repeat, or palette or original ids do not match the names.
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
                f"got {len(self.names)} classes; allowed: {MOST_CLASSES}, because a train id has 8 bits and 255 is the "
                "ignored id; merge classes: several ids may belong to one class"
            )
        if len(self.palette) != len(self.names):
            raise UserError(
                f"palette has {len(self.palette)} colours for {len(self.names)} classes; list one per class"
            )
        if any(len(colour) != 3 or not all(0 <= c <= 255 for c in colour) for colour in self.palette):
            raise UserError("palette: every colour is three integers in 0..255")
        if 0 <= self.ignore_index < len(self.names) or not 0 <= self.ignore_index <= 255:
            raise UserError(f"ignore_index: got {self.ignore_index}; allowed: {len(self.names)}..255")
        if (self.original_ids is None) != (self.original_ignored is None):
            raise UserError("original_ids and original_ignored: set both or neither")
        if self.original_ids is not None and self.original_ignored is not None:
            ids = (*self.original_ids, self.original_ignored)
            if len(self.original_ids) != len(self.names):
                raise UserError(
                    f"original_ids has {len(ids) - 1} ids for {len(self.names)} classes; list one per class"
                )
            if len(set(ids)) != len(ids) or not all(0 <= i <= 255 for i in ids):
                got = f"original_ids {list(ids[:-1])}, original_ignored {ids[-1]}"
                raise UserError(f"got {got}; allowed: different integers in 0..255")

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def padding(self) -> int:
        """Id of the pixels of a training crop outside its frame: the highest id that no class has and that is not the
        ignored one. With 255 classes there is none; then it is the ignored id, and ignored pixels count as padding.

        Example:
            >>> LabelSpec(("road", "car"), ((0, 0, 0), (9, 9, 9))).padding
            254
        """
        free = (index for index in range(255, len(self.names) - 1, -1) if index != self.ignore_index)
        return next(free, self.ignore_index)

    def shortage(self, split: str, pixels: Sequence[int]) -> str | None:
        """Why a split has too few classes for training or measuring; None: it has enough.

        Args:
            pixels: (K,) number of labelled pixels of each class in the split.

        Example:
            >>> labels = LabelSpec(("road", "car"), ((0, 0, 0), (9, 9, 9)))
            >>> labels.shortage("val", [5, 0])
            "split val: every labelled pixel is 'road'; it must show two classes or more"
            >>> labels.shortage("val", [5, 1])
        """
        shown = [name for name, count in zip(self.names, pixels, strict=True) if count]
        if not shown:
            return f"split {split}: no pixel has a class, all are ignored; it must show two classes or more"
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
        """Read the facts of :meth:`to_meta`. Raises UserError if one is missing or has a wrong type."""
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
            needed = "classes, palette, ignore_index, and both original_ids and original_ignored or neither"
            raise UserError(f"{error} is missing; needed: {needed}") from error
        except (TypeError, ValueError) as error:
            raise UserError(f"classes, palette, ignore_index or an original id has a wrong type ({error})") from error

    def to_original(self) -> npt.NDArray[np.uint8]:
        """Original id of every train id, as a table for cv2.LUT, (256,); ids without a class become the ignored id.

        Raises:
            UserError: these labels have no original ids.

        Example:
            >>> road = LabelSpec(("road",), ((128, 64, 128),), original_ids=(7,), original_ignored=0)
            >>> road.to_original()[[0, 0, 255]].tolist()
            [7, 7, 0]
        """
        if self.original_ids is None:
            raise UserError(
                "these classes have no original ids: the data set has none, or its classes were merged, or an earlier "
                "version wrote the artifact (then run dvc repro; for an imported network add original_ids to its "
                "description); write train ids instead"
            )
        table = np.full(256, self.original_ignored, np.uint8)
        table[: self.num_classes] = self.original_ids
        return table

    def lookup_bgr(self) -> npt.NDArray[np.uint8]:
        """BGR colour of every id, as a table for cv2.LUT, (256, 1, 3); ids without a class are black."""
        table = np.zeros((256, 1, 3), np.uint8)
        table[: self.num_classes, 0] = np.asarray(self.palette, np.uint8)[:, ::-1]
        return table
