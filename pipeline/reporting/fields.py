"""Typed reading of a JSON object: a missing key or null is None (or empty), a wrong value is collected as a fault."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.errors import Faults

Rows = tuple[tuple[float | None, ...] | None, ...]


class Fields:
    """The fields of one JSON object.

    Args:
        data: the object.
        faults: where wrong values are reported, all of them.
        place: path of the object inside its file, for the messages.

    Example:
        >>> faults = Faults("results/kd.json")
        >>> Fields({"miou": 71.2}, faults).percent("miou")
        71.2
        >>> Fields({"miou": "high"}, faults, place="teacher").percent("miou"), faults.messages
        (None, ["teacher.miou: got 'high'; allowed: a number in 0..100"])
    """

    def __init__(self, data: Mapping[str, Any], faults: Faults, *, place: str = "") -> None:
        self.data = data
        self._faults = faults
        self._place = place

    def fault(self, key: str, message: str) -> None:
        self._faults.add(f"{self._path(key)}: {message}")

    def text(self, key: str) -> str:
        value = self.data.get(key)
        if value is None or isinstance(value, str):
            return value or ""
        self._wrong(key, value, "a string")
        return ""

    def flag(self, key: str) -> bool | None:
        value = self.data.get(key)
        if value is None or isinstance(value, bool):
            return value
        self._wrong(key, value, "true or false")
        return None

    def number(self, key: str, *, low: float = -math.inf, high: float = math.inf) -> float | None:
        return self._number(key, self.data.get(key), low, high)

    def percent(self, key: str) -> float | None:
        return self.number(key, low=0, high=100)

    def percents(self, key: str, count: int) -> tuple[float | None, ...]:
        """``count`` percentages, null among them allowed; empty when the key is missing."""
        return self.numbers(key, count, low=0, high=100)

    def numbers(
        self, key: str, count: int, *, low: float = -math.inf, high: float = math.inf
    ) -> tuple[float | None, ...]:
        """``count`` numbers, null among them allowed; empty when the key is missing."""
        values = self._list(key)
        if values and len(values) != count:
            self.fault(key, f"has {len(values)} entries for {count} classes; allowed: one a class, null where absent")
            return ()
        return tuple(self._number(f"{key}[{index}]", value, low, high) for index, value in enumerate(values))

    def rows(self, key: str, count: int, width: int, *, low: float = -math.inf, high: float = math.inf) -> Rows:
        """``count`` lists of ``width`` numbers, null among both allowed; empty when the key is missing."""
        found: list[tuple[float | None, ...] | None] = []
        values = self._list(key)
        for index, value in enumerate(values):
            if value is None:
                found.append(None)
            elif isinstance(value, list) and len(value) == width:
                found.append(tuple(self._number(f"{key}[{index}]", each, low, high) for each in value))
            else:
                self._wrong(f"{key}[{index}]", value, f"null or {width} numbers")
        if values and len(values) != count:
            self.fault(key, f"has {len(values)} entries for {count} classes; allowed: one a class, null where absent")
            return ()
        return tuple(found)

    def integer(self, key: str) -> int | None:
        value = self.data.get(key)
        if value is None or (_is_number(value) and value == int(value) and value >= 0):
            return None if value is None else int(value)
        self._wrong(key, value, "a whole number, 0 or more")
        return None

    def integers(self, key: str) -> tuple[int, ...]:
        values = self._list(key)
        if not all(_is_number(value) and value == int(value) for value in values):
            self._wrong(key, values, "a list of whole numbers")
            return ()
        return tuple(int(value) for value in values)

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._list(key)
        if not all(isinstance(value, str) for value in values):
            self._wrong(key, values, "a list of strings")
            return ()
        return tuple(values)

    def section(self, key: str) -> Fields:
        """The object under ``key``; an empty one when it is missing or null."""
        value = self.data.get(key)
        if value is not None and not isinstance(value, dict):
            self._wrong(key, value, "an object")
            value = None
        return Fields(value or {}, self._faults, place=self._path(key))

    def items(self, key: str) -> list[Fields]:
        """The objects of the list under ``key``."""
        found = []
        for index, value in enumerate(self._list(key)):
            if isinstance(value, dict):
                found.append(Fields(value, self._faults, place=self._path(f"{key}[{index}]")))
            else:
                self._wrong(f"{key}[{index}]", value, "an object")
        return found

    def _list(self, key: str) -> list[Any]:
        value = self.data.get(key)
        if value is None or isinstance(value, list):
            return value or []
        self._wrong(key, value, "a list")
        return []

    def _number(self, key: str, value: Any, low: float, high: float) -> float | None:
        if value is None:
            return None
        if _is_number(value) and low <= value <= high:
            return float(value)
        bounds = "" if (low, high) == (-math.inf, math.inf) else f" in {low:g}..{high:g}"
        self._wrong(key, value, f"a number{bounds}")
        return None

    def _wrong(self, key: str, value: Any, allowed: str) -> None:
        self.fault(key, f"got {value!r}; allowed: {allowed}")

    def _path(self, key: str) -> str:
        return f"{self._place}.{key}" if self._place else key


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
