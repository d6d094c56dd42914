"""The option ``licence`` of data sets whose licence only the user knows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

from pydantic import BeforeValidator

from pipeline.errors import closest
from pipeline.licence import Licence

KEYS = tuple(field.name for field in fields(Licence))
ALLOWED = (
    "allowed: null (not stated), or a section with name (text) and, if known, url (text), commercial (true, false or "
    "null) and note (text); write for example `licence: {name: CC BY 4.0, commercial: true}`"
)


def _checked(value: Any) -> Any:
    """The value; raises ValueError with all its problems in one sentence."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(ALLOWED)
    problems = [f"{key} is an unknown key, {closest(str(key), KEYS)}" for key in value if key not in KEYS]
    if not isinstance(value.get("name"), str) or not value["name"].strip():
        problems.append("name must be a text that is not empty" if "name" in value else "name is missing")
    problems += [f"{key} must be a text" for key in ("url", "note") if not isinstance(value.get(key, ""), str)]
    if not isinstance(value.get("commercial"), (bool, type(None))):
        problems.append("commercial must be true, false or null")
    if problems:
        raise ValueError("; ".join([*problems, ALLOWED]))
    return value


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What the user states about a data set.

    Args:
        licence: ``{name: ..., url: ..., commercial: ..., note: ...}`` of the images and labels; only name is required.
            commercial: true, false, or null (not known). Null: not stated. See data.md.
    """

    licence: Annotated[dict[str, Any] | None, BeforeValidator(_checked)] = None

    def read(self) -> Licence | None:
        """The licence; None: it is not stated."""
        return None if self.licence is None else Licence(**self.licence)


#: Nothing is stated.
UNSTATED = Stated()
