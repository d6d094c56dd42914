"""Reading a YAML file of typed sections, with one message per error of syntax, type or range."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline import option_values
from pipeline.errors import Problems, UserError, closest

#: A colour without quotes, which YAML reads as a comment.
COLOUR = re.compile(r"[\[,\s](#[0-9a-fA-F]{6})\b")

#: Types that a value may have.
PLAIN = (str, bool, int, float, type(None))
#: How messages name the types that YAML gives to text without quotes.
KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    date: "a date",
    datetime: "a time",
    type(None): "null",
}


def read(path: Path, *, sections: Iterable[str], absent: str = "run from the project's root") -> dict[Any, Any]:
    """The mapping in a YAML file.

    Args:
        sections: keys that it may have, for the message about a file without a mapping.
        absent: advice in the message about a missing file.

    Raises:
        UserError: the file is missing, is not UTF-8, is not YAML (with line and column) or has no mapping; or, all at
            once, values that YAML reads as dates, and keys that it reads as numbers, dates or true and false.
    """
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {absent}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        reason = " ".join(str(problem or error).split())
        raise UserError(f"{path}{where}: not valid YAML: {reason}{_comment(path, mark)}") from error
    if not isinstance(raw, dict):
        content = "nothing" if raw is None else f"a {type(raw).__name__}"
        raise UserError(f"{path}: holds {content}; a mapping of {', '.join(sections)} is needed")
    problems = Problems(str(path))
    for message in _unquoted(raw, ()):
        problems.add(message)
    problems.raise_if_any()
    return raw


def value(text: str) -> Any:
    """A value as YAML reads it: ``3``, ``[256, 320]``, ``null``, text.

    Raises:
        UserError: the text is not YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise UserError(f"{text!r}: not valid YAML: {' '.join(str(error).split())}") from error


def _unquoted(node: Any, where: tuple[str, ...]) -> Iterator[str]:
    """Keys that are not text, and values that JSON does not have: YAML reads 2024-01-01 as a date and `on` as true."""
    if isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(key, str):
                kind = "null" if key is None else KINDS.get(type(key), f"a {type(key).__name__}")
                yield f"{'.'.join(where) or 'top level'}: YAML reads the key {key} as {kind}; write it in quotes"
            yield from _unquoted(value, (*where, str(key)))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _unquoted(value, (*where, str(index)))
    elif not isinstance(node, PLAIN):
        kind = KINDS.get(type(node), f"a {type(node).__name__}")
        yield f"{'.'.join(where)}: YAML reads {node} as {kind}; write text in quotes, several values as a list"


def _comment(path: Path, mark: Any) -> str:
    """A hint, if there is a colour without quotes before the error: the rest of its line is a comment."""
    before = path.read_text(encoding="utf-8").splitlines()[: mark.line + 1] if mark else []
    colour = next((match for line in reversed(before) if (match := COLOUR.search(line))), None)
    return f'; # begins a comment: write colours in quotes, "{colour[1]}"' if colour else ""


def explain(problem: Mapping[str, Any], root: type[BaseModel]) -> str:
    """The message of one pydantic error: where, what, got, allowed.

    Args:
        root: the class of the whole file.
    """
    location = [str(part) for part in problem["loc"]]
    where = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key; {closest(location[-1], _keys_at(location[:-1], root))}"
    if problem["type"] == "missing":
        return f"{where}: missing; it has no default"
    return f"{where}: got {problem['input']!r}; {option_values.allowed(problem)}"


def _keys_at(location: list[str], root: type[BaseModel]) -> list[str]:
    """The keys that a section may have."""
    section: Any = root
    for part in location:
        section = section.model_fields[part].annotation if hasattr(section, "model_fields") else get_args(section)[1]
        if get_origin(section) in (Union, UnionType):  # a section or something else
            section = next(kind for kind in get_args(section) if hasattr(kind, "model_fields"))
    return sorted(section.model_fields)
