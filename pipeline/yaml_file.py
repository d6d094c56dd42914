"""Reading a YAML file of typed sections: where it is not YAML, and what pydantic finds wrong in it, in our words."""

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

from pipeline import plugin_options
from pipeline.errors import Faults, UserError, closest

#: A colour without quotes, which YAML takes for a comment.
COLOUR = re.compile(r"[\[,\s](#[0-9a-fA-F]{6})\b")

#: What a value of a section may be, and what YAML makes of words and numbers without quotes.
PLAIN = (str, bool, int, float, type(None))
KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    date: "a date",
    datetime: "a time",
    type(None): "null",
}


def read(path: Path, *, sections: Iterable[str], absent: str = "run from the project's root") -> dict[Any, Any]:
    """A YAML file that holds a mapping.

    Args:
        sections: keys that it may have, for the message where it holds something else.
        absent: what to do where there is no such file.

    Raises:
        UserError: no such file, not UTF-8, not YAML (with line and column), no mapping, or every value that YAML takes
            for a date and every key that it takes for a number, a date or a truth value, at once.
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
        got = "nothing" if raw is None else f"a {type(raw).__name__}"
        raise UserError(f"{path}: holds {got}; a mapping of {', '.join(sections)} is needed")
    faults = Faults(str(path))
    for message in _unquoted(raw, ()):
        faults.add(message)
    faults.raise_if_any()
    return raw


def _unquoted(found: Any, where: tuple[str, ...]) -> Iterator[str]:
    """Keys that are no text and values that JSON does not have: YAML reads 2024-01-01 as a date and `on` as true."""
    if isinstance(found, dict):
        for key, value in found.items():
            if not isinstance(key, str):
                read = "null" if key is None else KINDS.get(type(key), f"a {type(key).__name__}")
                yield f"{'.'.join(where) or 'top level'}: YAML reads the key {key} as {read}; write it in quotes"
            yield from _unquoted(value, (*where, str(key)))
    elif isinstance(found, list):
        for index, value in enumerate(found):
            yield from _unquoted(value, (*where, str(index)))
    elif not isinstance(found, PLAIN):
        read = KINDS.get(type(found), f"a {type(found).__name__}")
        yield f"{'.'.join(where)}: YAML reads {found} as {read}; write text in quotes, several values as a list"


def _comment(path: Path, mark: Any) -> str:
    """A hint where a colour without quotes has made the end of a line a comment."""
    before = path.read_text(encoding="utf-8").splitlines()[: mark.line + 1] if mark else []
    colour = next((found for line in reversed(before) if (found := COLOUR.search(line))), None)
    return f'; # begins a comment: write colours in quotes, "{colour[1]}"' if colour else ""


def explain(problem: Mapping[str, Any], root: type[BaseModel]) -> str:
    """One pydantic error as: where: what, got, allowed.

    Args:
        root: the model that the file was checked against.
    """
    location = [str(part) for part in problem["loc"]]
    where = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key; {closest(location[-1], _keys_at(location[:-1], root))}"
    if problem["type"] == "missing":
        return f"{where}: missing; it has no default"
    return f"{where}: got {problem['input']!r}; {plugin_options.allowed_by(problem)}"


def _keys_at(location: list[str], root: type[BaseModel]) -> list[str]:
    """The keys that a section of a model may have."""
    found: Any = root
    for part in location:
        found = found.model_fields[part].annotation if hasattr(found, "model_fields") else get_args(found)[1]
        if get_origin(found) in (Union, UnionType):  # a section or something else
            found = next(each for each in get_args(found) if hasattr(each, "model_fields"))
    return sorted(found.model_fields)
