"""The sections of params.yaml that belong to plugins, each checked against the signature of its class."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pipeline import option_values, plugins
from pipeline.errors import UserError, closest
from pipeline.settings import loss_mixture

#: Facts that stages offer to the plugins of a kind: not options.
OFFERED = {
    "models": frozenset(["num_classes", "classes"]),
    "losses": frozenset(
        ["num_classes", "ignore_index", "steps", "seed"]
        + [
            f"{role}_{fact}"
            for role in ("student", "teacher")
            for fact in ("channels", "stage_channels", "output_stride", "divisor")
        ]
    ),
}


def problems(raw: Mapping[Any, Any], kinds: Collection[str]) -> Iterator[str]:
    """Unknown plugins and invalid options, also in a file with other problems.

    Args:
        raw: params.yaml as YAML reads it.
        kinds: plugin kinds whose options are checked; their plugins are imported.
    """
    sections = list(_plugin_sections(raw))
    for where, kind, name in _chosen(raw):
        if name not in plugins.available(kind):
            known = [*plugins.available(kind), *(loss_mixture.RECIPES if kind == "losses" else ())]
            yield f"{where}: got '{name}'; pipeline/{kind} has no such file; {closest(name, known)}"
        elif kind != "models" and not any(section[1:3] == (kind, name) for section in sections):
            sections.append((f"{'convert' if kind == 'runtimes' else kind}.{name}", kind, name, {}))
    for where, name, options in _overrides(raw):
        if "losses" in kinds and name in plugins.available("losses"):
            yield from _option_problems(where, "losses", name, options, inherited=_section(raw, "losses", name))
    for where, kind, name, options in sections:
        if name not in plugins.available(kind):
            allowed = [*plugins.available(kind), *(["runtime"] if kind == "runtimes" else [])]
            yield f"{where}: unknown key; {closest(name, allowed)}"
        elif not isinstance(options, dict):
            yield f"{where}: got {options!r}; allowed: a section"
        elif kind in kinds:
            yield from _option_problems(where, kind, name, options)


def _chosen(raw: Mapping[Any, Any]) -> Iterator[tuple[str, str, str]]:
    """(where, plugin kind, plugin name) of every choice."""
    choices = [
        ("dataset", "datasets", raw.get("dataset")),
        ("convert.runtime", "runtimes", _section(raw, "convert").get("runtime")),
        *((f"{where}.name", "models", model.get("name")) for where, model in _models(raw).items()),
        *((where, "losses", name) for where, loss in _losses(raw) for name in loss_mixture.overrides(loss)),
    ]
    return ((where, kind, name) for where, kind, name in choices if isinstance(name, str))


def _losses(raw: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """(where, loss) of every chosen loss, as it is written; pydantic reports those of an invalid form."""
    students, compared = _section(raw, "students"), _section(raw, "compare", "losses")
    losses = [(f"students.{key}.loss", _section(students, key).get("loss")) for key in students]
    losses += [(f"compare.losses.{key}", loss) for key, loss in compared.items()]
    return ((where, loss) for where, loss in losses if not loss_mixture.form_problem(loss))


def _overrides(raw: Mapping[Any, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(where, loss name, options) of every loss that has options beside its name."""
    for where, loss in _losses(raw):
        if isinstance(loss, dict):
            yield from ((f"{where}.{name}", name, options) for name, options in loss.items())


def _plugin_sections(raw: Mapping[Any, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """(where, plugin kind, plugin name, options) of every section of a plugin, chosen or not."""
    for kind in ("datasets", "losses"):
        for name, options in _section(raw, kind).items():
            if isinstance(name, str) and isinstance(options, dict):  # pydantic reports others
                yield f"{kind}.{name}", kind, name, options
    for name, options in _section(raw, "convert").items():
        if isinstance(name, str) and name != "runtime":
            yield f"convert.{name}", "runtimes", name, options
    for where, model in _models(raw).items():
        if model.get("name") in plugins.available("models"):
            yield where, "models", model["name"], {key: value for key, value in model.items() if key != "name"}


def _models(raw: Mapping[Any, Any]) -> dict[str, Mapping[Any, Any]]:
    """The sections of networks, by their place."""
    places = [("teacher", "model"), ("distill", "stage0", "model")]
    places += [("students", key, "model") for key in _section(raw, "students")]
    return {".".join(map(str, place)): _section(raw, *place) for place in places}


def _section(raw: Mapping[Any, Any], *keys: Any) -> Mapping[Any, Any]:
    """The mapping under these keys; an empty one where there is no mapping."""
    value: Any = raw
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _option_problems(
    where: str, kind: str, name: str, options: dict[str, Any], *, inherited: Collection[str] = ()
) -> Iterator[str]:
    """Problems of the options of one plugin; ``inherited`` are keys with values in another section."""
    try:
        plugin = plugins.load(kind, name)
    except UserError as error:
        yield f"{where}: {error}"
        return
    allowed = {key: p for key, p in plugins.keys(plugin).items() if key not in OFFERED.get(kind, ())}
    valid = True
    for key, value in options.items():
        if key not in allowed:
            yield f"{where}.{key}: unknown key; {closest(str(key), allowed)}"
        elif problem := option_values.problem(value, allowed[key].annotation):
            valid = False
            yield f"{where}.{key}: {problem}"
    if kind == "models" and valid:
        yield from (f"{where}.{problem}" for problem in plugin.option_problems(options))
    for key, parameter in allowed.items():
        if key not in options and key not in inherited and parameter.default is inspect.Parameter.empty:
            yield f"{where}.{key}: missing; it has no default"
