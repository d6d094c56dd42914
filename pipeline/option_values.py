"""Compare the value of an option with its annotation, such as ``Annotated[float, Gt(0)]``; errors in plain words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline import plugins
from pipeline.errors import Problems

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
#: Allowed values by the type of a pydantic error. Tuples are pairs, or colours, which are lists of three.
TYPES = {
    "model_type": "a section",
    "dict_type": "a section",
    "list_type": "a list",
    "tuple_type": "a list of two numbers",
    "missing": "a list of two numbers",
    "too_long": "a list of two numbers",
}


def check(kind: str, name: str, options: Mapping[str, Any]) -> None:
    """Compare the options of a plugin with the types and ranges in its signature.

    Unknown and missing options are reported by :func:`pipeline.plugins.build`.

    Raises:
        UserError: all values that do not fit, at once.
    """
    known = plugins.keys(plugins.load(kind, name))
    problems = Problems(f"{kind}.{name}")
    for key, value in options.items():
        if key in known and (message := problem(value, known[key].annotation)):
            problems.add(f"{key}: {message}")
    problems.raise_if_any()


def problem(value: Any, annotation: Any) -> str:
    """What is wrong with a value; empty if it fits.

    Args:
        value: as YAML reads it; a list fits a tuple, and no other value is converted.
        annotation: a type, with its range where it has one.

    Example:
        >>> from typing import Annotated
        >>> from annotated_types import Gt
        >>> problem(0, Annotated[float, Gt(0)])
        'got 0; allowed: greater than 0'
    """
    try:  # as JSON, because pydantic's strict mode accepts a list for a tuple there
        TypeAdapter(annotation, config=STRICT).validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        return f"got {value!r}; {' or '.join(dict.fromkeys(map(allowed, error.errors())))}"
    return ""


def allowed(problem: Mapping[str, Any]) -> str:
    """The second half of a message: the allowed values, from one pydantic error."""
    if problem["type"] == "tuple_type" and "tuple[int, int, int]" in problem["loc"]:  # a colour
        return "allowed: [red, green, blue]"
    if problem["type"] in TYPES:
        return f"allowed: {TYPES[problem['type']]}"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    message = problem["msg"].replace("Input should be ", "allowed: ")
    return f"{message[0].lower()}{message[1:]}"
