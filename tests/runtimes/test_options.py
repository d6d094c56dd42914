"""A wrong value of each option of a runtime is one line, where params.yaml is read and where the runtime is built."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, get_args, get_origin

import pytest
from annotated_types import Ge, Le

from pipeline import option_values, plugins, runtimes
from pipeline.errors import UserError
from pipeline.settings import plugin_options

NO_INTEGER = ("allowed: a valid integer", "allowed: a whole number")
NO_BOOLEAN = ("allowed: a valid boolean", "allowed: true or false")
FROM_1 = ("allowed: greater than or equal to 1", "allowed: 1 or more")
FROM_0 = ("allowed: greater than or equal to 0", "allowed: 0 or more")
NULLABLE_FROM_1 = (FROM_1[0], "allowed: 1 or more, or null")

#: (option, wrong value, the message in params.yaml, the message of :func:`pipeline.runtimes.build`)
SHARED = [
    ("workspace_mib", 0, *FROM_1),
    ("workspace_mib", 1.5, *NO_INTEGER),
    ("optimization_level", -1, *FROM_0),
    ("optimization_level", 6, "allowed: less than or equal to 5", "allowed: 5 or less"),
    ("optimization_level", True, *NO_INTEGER),
    ("cuda_graph", 1, *NO_BOOLEAN),
    ("batch", [0, 1, 4], *NULLABLE_FROM_1),
    ("batch", 4, "allowed: a list", "allowed: a list, or null"),
]
WRONG = [
    ("onnxruntime", "threads", 0, *FROM_1),
    ("onnxruntime", "threads", "2", *NO_INTEGER),
    ("onnxruntime", "threads", None, *NO_INTEGER),
    ("onnxruntime", "spinning", "yes", *NO_BOOLEAN),
    (
        "onnxruntime",
        "provider",
        "gpu",
        "allowed: 'cpu', 'cuda' or 'tensorrt'",
        "allowed: 'cpu' or 'cuda' or 'tensorrt'",
    ),
    *(("tensorrt", *row) for row in SHARED),
    *(("tensorrt_rtx", *row) for row in SHARED),
    ("tensorrt", "timing_cache", 5, "allowed: a valid string", "allowed: text, or null"),
    ("tensorrt", "dla_core", -1, FROM_0[0], "allowed: 0 or more, or null"),
    ("tensorrt_rtx", "compute_capabilities", [86], "allowed: a valid string", "allowed: text, or null"),
]


def options(name: str) -> dict[str, inspect.Parameter]:
    return plugins.keys(plugins.load("runtimes", name))


def test_the_table_has_every_option() -> None:
    assert {row[:2] for row in WRONG} == {(name, key) for name in runtimes.available() for key in options(name)}


@pytest.mark.parametrize(("name", "key", "value", "in_file", "in_python"), WRONG)
def test_an_invalid_value_is_one_clear_message(name: str, key: str, value: Any, in_file: str, in_python: str) -> None:
    message = f"{key}: got {value!r}; "
    section = {"convert": {name: {key: value}}}
    assert list(plugin_options.problems(section, ["runtimes"])) == [f"convert.{name}.{message}{in_file}"]
    with pytest.raises(UserError) as caught:  # before the library is imported: it may be missing here
        runtimes.build(name, {key: value})
    assert str(caught.value) == f"runtimes.{name}: 1 problem\n  {message}{in_python}"


def test_all_invalid_values_are_reported_at_once() -> None:
    with pytest.raises(UserError) as caught:
        runtimes.build("onnxruntime", {"threads": 0, "spinning": 1})
    assert str(caught.value).split("\n") == [
        "runtimes.onnxruntime: 2 problems",
        "  threads: got 0; allowed: 1 or more",
        "  spinning: got 1; allowed: true or false",
    ]


@pytest.mark.parametrize("name", runtimes.available())
def test_every_number_has_a_range_and_every_default_is_valid(name: str) -> None:
    for key, parameter in options(name).items():
        assert option_values.problem(parameter.default, parameter.annotation) == "", key
        for part in numbers(parameter.annotation):
            assert get_origin(part) is Annotated, f"{name}.{key} has no range"
            assert all(isinstance(limit, (Ge, Le)) for limit in part.__metadata__), (
                f"{name}.{key}: devices check no other"
            )
            for limit in part.__metadata__:
                bound = limit.ge if isinstance(limit, Ge) else limit.le
                assert option_values.problem(bound, part) == "", key


def numbers(annotation: Any) -> list[Any]:
    """The types of numbers in an annotation, with their ranges."""
    if annotation in (int, float) or get_origin(annotation) is Annotated:
        return [annotation]
    return [number for part in get_args(annotation) for number in numbers(part)]
