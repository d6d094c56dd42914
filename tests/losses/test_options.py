"""Every number among the options of a loss has a range in its signature; other values are refused before training."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt

from pipeline import losses, option_values, plugins
from pipeline.errors import UserError
from pipeline.losses._weights import FORMS, Forms
from pipeline.settings import plugin_options

KINDS = ("losses", "datasets", "models")  # a runtime also runs where annotated_types is missing
#: Numbers without a range, with the reason.
WITHOUT_RANGE = {
    ("datasets", name, "seed"): "splits are drawn by a hash of it, so every integer is valid"
    for name in ("coco", "cvat", "folder", "label_studio", "labelme")
}
WORDS = {Gt: "greater than", Ge: "greater than or equal to", Lt: "less than", Le: "less than or equal to"}


def options(kind: str, name: str) -> dict[str, inspect.Parameter]:
    offered = plugin_options.OFFERED.get(kind, frozenset())
    return {key: p for key, p in plugins.keys(plugins.load(kind, name)).items() if key not in offered}


def parts(annotation: Any) -> tuple[Any, list[Any]]:
    """Type and limits of an annotation, without None."""
    if get_origin(annotation) in (types.UnionType, Union):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        annotation = kinds[0] if len(kinds) == 1 else annotation
    if get_origin(annotation) is Annotated:
        base, *limits = get_args(annotation)
        return base, limits
    return annotation, []


def ranges(limits: list[Any]) -> list[Any]:
    return [limit for limit in limits if isinstance(limit, tuple(WORDS))]


def invalid(base: Any, limits: list[Any]) -> Iterator[tuple[Any, str]]:
    """Values that an option must refuse, with what the message says is allowed."""
    for limit in ranges(limits):
        bound = getattr(limit, type(limit).__name__.lower())
        direction = -math.inf if isinstance(limit, (Gt, Ge)) else math.inf
        beyond = bound + math.copysign(1, direction) if base is int else math.nextafter(bound, direction)
        message = f"allowed: {WORDS[type(limit)]} {bound:g}"
        yield beyond if base is float else int(beyond), message
        if isinstance(limit, (Gt, Lt)):
            yield base(bound), message
    if base is float:
        yield from ((value, "allowed: a finite number") for value in (math.inf, math.nan))
        yield "1", f"allowed: {FORMS}" if Forms() in limits else "allowed: a valid number"
        yield from ((value, "allowed: a valid number") for value in (True, None, [1.0]))
    elif base is int:
        yield from ((value, "allowed: a valid integer") for value in ("1", True, 1.5, [1]))
    elif base is bool:
        yield from ((value, "allowed: a valid boolean") for value in (1, "true", None))
    elif get_origin(base) is Literal:
        names = [repr(name) for name in get_args(base)]
        allowed = f"allowed: {', '.join(names[:-1])} or {names[-1]}"
        yield from ((value, allowed) for value in ("no such choice", True, None))
    elif base == list[str]:
        yield from (("stage1", "allowed: a list"), ([1], "allowed: a valid string"))
    else:
        raise AssertionError(f"{base} has no invalid values in this test")


TABLE = [
    (name, key, value, allowed)
    for name in losses.available()
    for key, parameter in options("losses", name).items()
    for value, allowed in invalid(*parts(parameter.annotation))
    if not (value is None and parameter.default is None)
]


def test_the_table_has_every_loss_with_options() -> None:
    assert {name for name, *_ in TABLE} == set(losses.available()) - {"none"} and len(TABLE) > 300


@pytest.mark.parametrize(("name", "key", "value", "allowed"), TABLE)
def test_an_invalid_value_is_one_clear_message(name: str, key: str, value: Any, allowed: str) -> None:
    """In a file, where `losses` and a student's own options are checked, and where Python builds a loss."""
    message = f"{key}: got {value!r}; {allowed}"
    with pytest.raises(UserError) as caught:
        losses.build(name, {key: value})
    assert str(caught.value) == f"losses.{name}: 1 problem\n  {message}"
    assert list(plugin_options.problems({"losses": {name: {key: value}}}, ["losses"])) == [f"losses.{name}.{message}"]
    student = {"students": {"kd": {"loss": {name: {key: value}}}}}
    assert list(plugin_options.problems(student, ["losses"])) == [f"students.kd.loss.{name}.{message}"]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in plugins.available(kind)])
def test_every_number_has_a_range_and_every_default_is_valid(kind: str, name: str) -> None:
    for key, parameter in options(kind, name).items():
        base, limits = parts(parameter.annotation)
        if base in (int, float) and (kind, name, key) not in WITHOUT_RANGE:
            assert any(isinstance(limit, tuple(WORDS)) for limit in limits), f"{kind}.{name}.{key} has no range"
        if parameter.default is not inspect.Parameter.empty:
            assert option_values.problem(parameter.default, parameter.annotation) == "", key


@pytest.mark.parametrize("name", losses.available())
def test_the_limit_itself_is_valid_where_the_range_holds_it(name: str) -> None:
    for key, parameter in options("losses", name).items():
        _, limits = parts(parameter.annotation)
        for limit in ranges(limits):
            if isinstance(limit, (Ge, Le)):
                bound = limit.ge if isinstance(limit, Ge) else limit.le
                assert option_values.problem(bound, parameter.annotation) == "", key


def test_all_invalid_values_are_reported_at_once() -> None:
    with pytest.raises(UserError) as caught:
        losses.build("kd", {"temperature": 0, "weight": -1.0})
    assert str(caught.value).split("\n") == [
        "losses.kd: 2 problems",
        "  temperature: got 0; allowed: greater than 0",
        "  weight: got -1.0; allowed: greater than or equal to 0",
    ]
