"""Class names, colours and the ignored id of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError

IGNORE_INDEX = 255


@dataclass(frozen=True)
class LabelSpec:
    """What the train ids ``0 .. len(names) - 1`` mean.

    Args:
        names: class names in train-id order.
        palette: one RGB colour a class.
        ignore_index: id of pixels that count nowhere.

    Raises:
        UserError: names repeat, or the palette does not match them.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int = IGNORE_INDEX

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or not self.names:
            raise UserError(f"class names must be unique and not empty; got {list(self.names)}")
        if len(self.palette) != len(self.names):
            raise UserError(f"palette has {len(self.palette)} colours for {len(self.names)} classes; give one each")
        if any(len(colour) != 3 or not all(0 <= c <= 255 for c in colour) for colour in self.palette):
            raise UserError("palette: every colour is three integers in 0..255")
        if 0 <= self.ignore_index < len(self.names) or not 0 <= self.ignore_index <= 255:
            raise UserError(f"ignore_index {self.ignore_index} must lie in {len(self.names)}..255")

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def to_meta(self) -> dict[str, Any]:
        return {
            "classes": list(self.names),
            "palette": [list(colour) for colour in self.palette],
            "ignore_index": self.ignore_index,
        }

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> LabelSpec:
        """Read what :meth:`to_meta` wrote. Raises UserError when a fact is missing or of another type."""
        try:
            return cls(
                names=tuple(str(name) for name in meta["classes"]),
                palette=tuple((int(r), int(g), int(b)) for r, g, b in meta["palette"]),
                ignore_index=int(meta["ignore_index"]),
            )
        except UserError:
            raise
        except KeyError as error:
            raise UserError(f"no {error} there; a label set has classes, palette and ignore_index") from error
        except (TypeError, ValueError) as error:
            raise UserError(f"classes, palette or ignore_index is of a wrong type ({error})") from error

    def lookup_bgr(self) -> npt.NDArray[np.uint8]:
        """Colour of every possible id as BGR, ready for cv2.LUT.

        Shape (256, 1, 3); unknown and ignored ids are black.
        """
        table = np.zeros((256, 1, 3), np.uint8)
        table[: self.num_classes, 0] = np.asarray(self.palette, np.uint8)[:, ::-1]
        return table
