"""JSON files read as typed models: every wrong value is named with its path in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import Problems, UserError

Number = Annotated[float, Field(strict=True)]
NotNegative = Annotated[float, Field(strict=True, ge=0)]
Percent = Annotated[float, Field(strict=True, ge=0, le=100)]
Count = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]

#: Type of a pydantic error -> allowed values, in terms of JSON.
ALLOWED = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than_equal": "{ge:g} or more",
    "int_type": "a whole number",
    "less_than_equal": "{le:g} or less",
    "model_type": "an object",
    "string_too_short": "a text that is not empty",
    "string_type": "a text",
    "tuple_type": "a list",
}
#: A wrong value is quoted up to this many characters.
QUOTED = 60


class JsonObject(BaseModel):
    """A JSON object; null counts as a missing key, and keys that the report does not use are ignored."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_missing(cls, fields: Any) -> Any:
        return (
            {key: value for key, value in fields.items() if value is not None} if isinstance(fields, dict) else fields
        )


Model = TypeVar("Model", bound=JsonObject)


def read(model: type[Model], file: Path, *, advice: str) -> Model:
    """The contents of a JSON file.

    Args:
        model: the type of the content.
        advice: how to replace an invalid file; the last line of the message.

    Raises:
        UserError: the file cannot be read, is not JSON, or has wrong values: all of them in one message.
    """
    try:
        contents = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); {advice}") from error
    try:
        return model.model_validate_json(contents)
    except ValidationError as error:
        problems = Problems(str(file))
        for problem in error.errors():
            problems.add(explain(problem))
        problems.raise_if_any(advice=advice)
        raise


def explain(problem: Mapping[str, Any]) -> str:
    """One pydantic error as ``path: got value; allowed: values``.

    Example:
        >>> explain({"type": "less_than_equal", "loc": ("rows", 0, "miou"), "input": 710, "ctx": {"le": 100.0}})
        'rows[0].miou: got 710; allowed: 100 or less'
    """
    kind, context = problem["type"], problem.get("ctx", {})
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).removeprefix(".")
    if kind == "json_invalid":
        return f"not JSON: {context['error']}"
    if kind == "value_error":
        return f"{place}: {context['error']}" if place else str(context["error"])
    if kind == "missing":
        return f"{place}: missing; it is required"
    value = json.dumps(problem["input"], ensure_ascii=False)
    value = value if len(value) <= QUOTED else f"{value[:QUOTED]}..."
    allowed = ALLOWED[kind].format(**context) if kind in ALLOWED else problem["msg"]
    return f"{place or 'top level'}: got {value}; allowed: {allowed}"


def require_lengths(lists: Mapping[str, Sequence[Any]], count: int, *, key: str) -> None:
    """Refuse lists that are neither empty nor as long as another list.

    Args:
        lists: by their path in the file.
        count: entries of the other list.
        key: path of the other list in the file.

    Raises:
        ValueError: naming every list of a wrong length.
    """
    wrong = [
        f"{place}: has {len(values)} entries" for place, values in lists.items() if values and len(values) != count
    ]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}; allowed: {count}, as in {key}, with null where a value is missing")
