"""The README is true where a machine can tell."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_names_every_file_of_the_library_and_no_other() -> None:
    tree = (ROOT / "docs/tree.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^ +([a-z0-9_]+\.py) ", tree, flags=re.MULTILINE))
    there = {
        path.name
        for folder in ("pipeline", "stages")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py" and "_streets" not in path.parts
    }
    assert named == there


def test_links_and_paths_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("http")]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b", README))
    assert {"repro", "test"} <= named <= targets
