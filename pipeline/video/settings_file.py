"""Small files of settings that users write: JSON, or YAML if PyYAML is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import Problems, UserError, closest


class _RepeatedKeyError(ValueError):
    """An object has a key twice: only its last value would count, without a warning."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    for key in entry:
        if [name for name, _ in pairs].count(key) > 1:
            raise _RepeatedKeyError(f"the key '{key}' occurs twice in one object; remove one")
    return entry


def read_settings(path: Path, *, example: str) -> Any:
    """The content of a JSON file, or of a YAML file if its name ends with .yaml or .yml.

    Args:
        example: a short valid file, for the message.

    Raises:
        UserError: no such file, or not valid JSON or YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        problem = error
    except _RepeatedKeyError as error:
        raise UserError(f"{path}: {error}") from None
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise UserError(
            f"{path}:{problem.lineno}:{problem.colno}: not valid JSON: {problem.msg}; needed: {example}"
        ) from problem
    try:
        import yaml  # noqa: PLC0415 - only for YAML: a device may not have it
    except ImportError:
        raise UserError(f"{path}: YAML needs PyYAML (pip install pyyaml); or write it as JSON") from None

    class Loader(yaml.SafeLoader):
        """Refuses an object that has a key twice."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            _once([(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except _RepeatedKeyError as error:
        raise UserError(f"{path}: {error}") from None


def is_number(value: Any) -> bool:
    """Whether a value of such a file is a number below a million, and not true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6


def read_entries(path: Path, key: str, *, example: str) -> tuple[Problems, list[Any]]:
    """The list under ``key`` in a file that has no other key.

    Returns:
        The problems of the file, one for each unknown key; and the entries of the list. The caller adds the problems of
        the entries and raises them.

    Raises:
        UserError: see :func:`read_settings`; there is no such list, or it is empty.
    """
    content = read_settings(path, example=example)
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: no list of {key}; needed: {example}")
    problems = Problems(str(path))
    for name in content:
        if name != key:
            problems.add(f"{name}: unknown key; {closest(str(name), [key])}")
    return problems, entries
