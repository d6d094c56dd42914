"""Names are printed as they are: brackets are no markup."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from pipeline import progress
from pipeline.reporting.table import violations_table

NAME = "[/bg] [red] a[0]"


def test_bars_show_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Bars() as bars:
        bars.step(NAME, 1)
    assert NAME in capsys.readouterr().out


def test_the_table_of_broken_budgets_shows_names_as_they_are() -> None:
    violation = SimpleNamespace(budget="max_class_drop", limit=1.0, got=2.0, what=f"class {NAME} fell")
    broken = SimpleNamespace(label=NAME, violations=[violation])
    missing = SimpleNamespace(label=f"{NAME} too", violations=[])
    stream = io.StringIO()
    Console(file=stream, width=200).print(violations_table(cast("Any", [broken, missing])))
    text = stream.getvalue()
    assert f"class {NAME} fell" in text and f"{NAME} too" in text
