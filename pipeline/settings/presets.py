"""Presets: tested sets of values that are written into params.yaml."""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pipeline import artifact
from pipeline.errors import UserError, closest
from pipeline.settings import params, yaml_file

FOLDER = Path(__file__).parents[2] / "presets"
#: Sections that a preset replaces as a whole: options of another network, and other students, do not fit the new ones.
WHOLE = ("model", "students")


def available() -> dict[str, str]:
    """Names of the presets, each with its first line, which states its purpose."""
    return {
        file.stem: file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        for file in sorted(FOLDER.glob("*.yaml"))
    }


def apply(name: str, path: Path) -> list[str]:
    """Write a preset into a params file. Comments and other values are kept.

    Returns:
        one line per change: ``distill.lr: 0.002 -> 0.02``.

    Raises:
        UserError: unknown preset, or the result is not valid; the file is then unchanged.
    """
    if name not in available():
        raise UserError(f"no preset '{name}'; {closest(name, available())}")
    preset = yaml_file.read(FOLDER / f"{name}.yaml", sections=params.Params.model_fields)
    yaml = _yaml()
    try:
        target = yaml.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's root") from None
    before = yaml_file.read(path, sections=params.Params.model_fields)
    _merge(target, preset)
    text = io.StringIO()
    yaml.dump(target, text)
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / path.name
        candidate.write_text(text.getvalue(), encoding="utf-8")
        params.load(candidate)
        after = yaml_file.read(candidate, sections=params.Params.model_fields)
    changes = list(_changes(before, after, ""))
    if changes:
        artifact.write_text(path, text.getvalue())
    return changes


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values of params.yaml with those of a preset or a study; networks and students are replaced as a whole."""
    target = copy.deepcopy(dict(values))
    _merge(target, changes)
    return target


def _yaml() -> YAML:
    """A reader and writer that keeps comments, and writes new values in the style of params.yaml: null, no anchors."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    yaml.representer.ignore_aliases = lambda _: True
    return yaml


def _merge(target: dict[Any, Any], preset: Mapping[str, Any], *, whole: bool = False) -> None:
    """Write the values of a preset into a section; ``whole`` removes keys that the preset does not name."""
    for key in [key for key in target if whole and key not in preset]:
        del target[key]
    for key, value in preset.items():
        current = target.get(key)
        if isinstance(value, dict) and isinstance(current, dict):
            _merge(current, value, whole=whole or key in WHOLE)
        elif key not in target or current != value:
            target[key] = _inline(value)


def _inline(value: Any) -> Any:
    """A new value in the layout of the file: a section of sections as lines, other sections and lists on one line."""
    if isinstance(value, dict):
        section = CommentedMap({key: _inline(child) for key, child in value.items()})
        if not any(isinstance(child, dict) for child in value.values()):
            section.fa.set_flow_style()
        return section
    if isinstance(value, list):
        row = CommentedSeq(value)
        row.fa.set_flow_style()
        return row
    return value


def _changes(before: Any, after: Any, where: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            name = f"{where}.{key}" if where else str(key)
            if key not in after:
                yield f"{name}: removed"
            elif key not in before:
                yield f"{name}: {after[key]}"
            else:
                yield from _changes(before[key], after[key], name)
    elif before != after:
        yield f"{where}: {before} -> {after}"
