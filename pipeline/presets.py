"""Presets: recipes that are known to go together, written into params.yaml, where every value of a run stands."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pipeline import artifact, params, yaml_file
from pipeline.errors import UserError, closest

FOLDER = Path(__file__).parents[1] / "presets"
#: Sections that are taken as a whole: options of another network or other students would make no sense beside new ones.
WHOLE = ("model", "students")


def available() -> dict[str, str]:
    """Names of the presets with the first line of each, which says what it is for."""
    return {
        file.stem: file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        for file in sorted(FOLDER.glob("*.yaml"))
    }


def apply(name: str, path: Path) -> list[str]:
    """Write a preset into a params file; its comments, and values that the preset does not name, stay.

    Returns:
        what changed: ``distill.lr: 0.002 -> 0.02``.

    Raises:
        UserError: no such preset, or the file is not valid with it; it is as before then.
    """
    if name not in available():
        raise UserError(f"no preset '{name}'; {closest(name, available())}")
    chosen = yaml_file.read(FOLDER / f"{name}.yaml", sections=params.Params.model_fields)
    yaml = _yaml()
    try:
        target = yaml.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's root") from None
    before = yaml_file.read(path, sections=params.Params.model_fields)
    _merge(target, chosen)
    text = io.StringIO()
    yaml.dump(target, text)
    with tempfile.TemporaryDirectory() as folder:
        tried = Path(folder) / path.name
        tried.write_text(text.getvalue(), encoding="utf-8")
        params.load(tried)
        after = yaml_file.read(tried, sections=params.Params.model_fields)
    changes = list(_changes(before, after, ""))
    if changes:
        artifact.write_text(path, text.getvalue())
    return changes


def _yaml() -> YAML:
    """Round trips that keep comments, and write what is new as params.yaml is written: null, no anchors."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    yaml.representer.ignore_aliases = lambda _: True
    return yaml


def _merge(target: dict[Any, Any], chosen: Mapping[str, Any], *, whole: bool = False) -> None:
    """Values of a preset into a section; ``whole`` removes those that the preset does not name."""
    for key in [key for key in target if whole and key not in chosen]:
        del target[key]
    for key, value in chosen.items():
        inside = target.get(key)
        if isinstance(value, dict) and isinstance(inside, dict):
            _merge(inside, value, whole=whole or key in WHOLE)
        elif key not in target or inside != value:
            target[key] = _inline(value)


def _inline(value: Any) -> Any:
    """A value that is new in the file: a section as lines, lists and options on one line."""
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
