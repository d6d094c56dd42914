"""Examples of settings and programs in the pages are valid."""

from __future__ import annotations

import ast
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.datasets import streets
from pipeline.imported import description
from pipeline.settings import params, presets, study
from pipeline.video.rule_file import read_rules
from pipeline.video.zone_file import read_zones
from tests.docs import pages


def examples(*languages: str) -> list[Any]:
    """The blocks in some languages, each with a name."""
    return [
        pytest.param(block, id=f"{pages.name(page)} {number}")
        for page in pages.PAGES
        for number, (language, block) in enumerate(pages.FENCE.findall(page.read_text(encoding="utf-8")))
        if language in languages
    ]


def merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def check_params(values: dict[str, Any], folder: Path) -> None:
    file = folder / "params.yaml"
    shutil.copy(pages.ROOT / "params.yaml", file)
    presets.apply("streets", file)
    whole = YAML(typ="safe").load(file)
    merge(whole, values)
    YAML().dump(whole, file)
    params.load(file)


def check_description(values: dict[str, Any], folder: Path) -> None:
    (folder / values["model"]).touch()
    YAML().dump(values, folder / "own.yaml")
    description.load(folder / "own.yaml")


def check_study(values: dict[str, Any], folder: Path) -> None:
    with (folder / "study.yaml").open("w") as stream:
        YAML().dump(values, stream)
    study.load(folder / "study.yaml")


def check_zones(values: dict[str, Any], folder: Path) -> None:
    (folder / "zones.json").write_text(json.dumps(values))
    assert read_zones(folder / "zones.json")


def check_events(values: dict[str, Any], folder: Path) -> None:
    """Rules name the zones of the page."""
    blocks = [json.loads(param.values[0]) for param in examples("json")]
    check_zones(next(each for each in blocks if "zones" in each), folder)
    (folder / "rules.json").write_text(json.dumps(values))
    zones = read_zones(folder / "zones.json")
    assert read_rules(folder / "rules.json", labels=streets.LABELS, zones=zones)


@pytest.mark.parametrize("block", examples("yaml", "json"))
def test_settings_are_valid(block: str, tmp_path: Path) -> None:
    values = YAML(typ="safe").load(block)
    checks: dict[str, Callable[[dict[str, Any], Path], None]] = {
        "dataset": check_params,
        "teacher": check_params,
        "distill": check_params,
        "losses": check_params,
        "model": check_description,
        "zones": check_zones,
        "events": check_events,
        "comparisons": check_study,
    }
    (check,) = {check for key, check in checks.items() if key in values}
    check(values, tmp_path)


def test_wrong_settings_are_not(tmp_path: Path) -> None:
    with pytest.raises(params.UserError, match="roots: unknown key"):
        check_params({"dataset": "folder", "datasets": {"folder": {"roots": "x"}}}, tmp_path)


@pytest.mark.parametrize("block", examples("python"))
def test_programs_import_what_exists(block: str) -> None:
    imports = [node for node in ast.parse(block).body if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        module = importlib.import_module(node.module or "")
        assert [
            alias.name for alias in node.names if node.module != "__future__" and not hasattr(module, alias.name)
        ] == []
