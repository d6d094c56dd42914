"""docs/params.md is what docs/reference.py writes, and says something about every key."""

from __future__ import annotations

import importlib.util
import re
from typing import Annotated, Literal

import pytest
from annotated_types import Gt, Le
from pydantic import Field

from pipeline import plugins
from pipeline.settings import params, training_params
from tests.docs import pages

spec = importlib.util.spec_from_file_location("documented_reference", pages.ROOT / "docs/reference.py")
assert spec is not None and spec.loader is not None
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


def test_the_page_is_current() -> None:
    written = (pages.ROOT / "docs/params.md").read_text(encoding="utf-8")
    assert written == reference.page(), "run: python docs/reference.py"


def test_every_key_is_there_with_a_text() -> None:
    rows = [re.split(r" (?<!\\)\| ", line) for line in reference.page().splitlines() if line.startswith("| `")]
    assert [row for row in rows if len(row) != 4 or not row[3].rstrip(" |")] == []
    keys = {row[0].strip("| `") for row in rows}
    assert {"seed", "lr_factors.encoder", "class_balance", "target", "budget.miou_drop", "threads"} <= keys
    assert {key for key in training_params.Recipe.model_fields if key != "lr_factors"} <= keys
    options = {key for name in plugins.available("losses") for key in reference.options("losses", name)}
    assert "temperature" in options and options <= keys and "num_classes" not in keys


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Annotated[float, Gt(0), Le(1)], "number, above 0, at most 1"),
        (Annotated[int, Field(ge=0)] | None, "whole number, 0 or more; or `null`"),
        (Literal["a", False], "`a`, `false`"),
        (dict[str, list[int]], "section: text -> list of whole number"),
        (tuple[int, int, int], "[whole number, whole number, whole number]"),
        (params.Size, "[height, width], multiples of 8"),
    ],
)
def test_types_in_words(annotation: object, words: str) -> None:
    assert reference.allowed(annotation) == words


def test_a_type_without_words_is_an_error() -> None:
    with pytest.raises(TypeError, match="no words for the type"):
        reference.allowed(complex)
    with pytest.raises(TypeError, match="no words for the limit"):
        reference.allowed(Annotated[int, "unknown"])
