"""Ranges of options, for annotations such as ``Annotated[int, Ge(1)]``, on machines without annotated_types too.

Where params.yaml is read, :mod:`pipeline.option_values` checks types and ranges with pydantic. A device has neither
package, so :func:`check` compares values with types, ranges and choices itself.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pipeline import plugins
from pipeline.errors import Problems

__all__ = ["Ge", "Le", "check", "problem"]

if TYPE_CHECKING:
    from annotated_types import Ge, Le
else:
    try:
        from annotated_types import Ge, Le
    except ImportError:

        @dataclass(frozen=True)
        class Ge:
            """The lowest valid value."""

            ge: float

        @dataclass(frozen=True)
        class Le:
            """The highest valid value."""

            le: float


#: Words for the types of options; others are not checked.
TYPES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    type(None): "null",
}


def check(name: str, options: Mapping[str, Any]) -> None:
    """Compare the options of a runtime with the types, ranges and choices in its signature.

    Unknown options are reported by :func:`pipeline.plugins.build`.

    Raises:
        UserError: all values that do not fit, at once.
    """
    known = plugins.keys(plugins.load("runtimes", name))
    problems = Problems(f"runtimes.{name}")
    for key, value in options.items():
        if key in known and (message := problem(value, known[key].annotation)):
            problems.add(f"{key}: got {value!r}; allowed: {message}")
    problems.raise_if_any()


def problem(value: Any, annotation: Any) -> str:
    """The allowed values, if this value is not one of them; else empty.

    Example:
        >>> problem(0, Annotated[int, Ge(1)] | None), problem(None, Annotated[int, Ge(1)] | None)
        ('1 or more, or null', '')
        >>> problem([1, 9], list[Annotated[int, Le(8)]]), problem("b", Literal["a", "c"])
        ('8 or less', "'a' or 'c'")
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (types.UnionType, Union):
        messages = [problem(value, part) for part in parts]
        return "" if "" in messages else ", or ".join(messages)
    if origin is Annotated:
        base, *limits = parts
        return problem(value, base) or _first(_limit_problem(value, limit) for limit in limits)
    if origin is Literal:
        return "" if value in parts else " or ".join(map(repr, parts))
    if origin is list and isinstance(value, list):
        return _first(problem(item, parts[0]) for item in value)
    expected = origin or annotation
    accepted = (int, float) if expected is float else expected
    if expected not in TYPES or (isinstance(value, accepted) and (expected is bool or not isinstance(value, bool))):
        return ""
    return TYPES[expected]


def _limit_problem(value: Any, limit: Any) -> str:
    """The words of a limit that a value of the right type exceeds; else empty."""
    if isinstance(limit, Ge) and value < limit.ge:
        return f"{limit.ge} or more"
    if isinstance(limit, Le) and value > limit.le:
        return f"{limit.le} or less"
    return ""


def _first(messages: Iterable[str]) -> str:
    """The first message that is not empty; else empty."""
    return next(filter(None, messages), "")
