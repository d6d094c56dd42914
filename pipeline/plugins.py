"""Plugins: file name = key. ``pipeline/losses/kd.py`` is ``loss: kd``; there is no registry to edit.

A plugin file holds exactly one public class that derives from its kind's base class (``_base.py``).
Names with a leading underscore are private to the kind.
"""

from __future__ import annotations

import importlib
import inspect
import types
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pipeline.errors import Problems, UserError, closest

KINDS = ("datasets", "losses", "models", "runtimes")


def available(kind: str) -> list[str]:
    """Keys of a kind, sorted: the files of ``pipeline/<kind>`` without a leading underscore."""
    if kind not in KINDS:
        raise UserError(f"no plugin kind '{kind}'; {closest(kind, KINDS)}")
    folder = Path(__file__).parent / kind
    return sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))


def load(kind: str, name: str) -> type[Any]:
    """The plugin class of ``pipeline/<kind>/<name>.py``.

    Raises:
        UserError: there is no such file, or it does not hold exactly one plugin class.
    """
    names = available(kind)
    if name not in names:
        raise UserError(f"pipeline/{kind} has no plugin '{name}'; {closest(name, names)}")
    base = importlib.import_module(f"pipeline.{kind}._base").PLUGIN
    module = importlib.import_module(f"pipeline.{kind}.{name}")
    candidates = (
        value
        for key, value in vars(module).items()
        if inspect.isclass(value)
        and getattr(value, "__module__", "") == module.__name__
        and not key.startswith("_")
        and not isinstance(value, types.GenericAlias)  # for Python 3.10 a type alias is a class
        and issubclass(value, base)
    )
    classes = list(dict.fromkeys(candidates))  # a class with two names is one class
    if len(classes) != 1:
        raise UserError(
            f"pipeline/{kind}/{name}.py must hold exactly one public {base.__name__}; it holds "
            f"{', '.join(cls.__name__ for cls in classes) or 'none'}"
        )
    plugin: type[Any] = classes[0]
    return plugin


def signature(plugin: type[Any]) -> dict[str, inspect.Parameter]:
    """The keyword arguments of a plugin class or dataclass; annotations are types, not strings."""
    hints = get_type_hints(plugin if is_dataclass(plugin) else plugin.__init__, include_extras=True)
    return {
        name: parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(plugin).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def keys(plugin: type[Any]) -> dict[str, inspect.Parameter]:
    """The keys of a plugin's section in params.yaml, and the facts that it takes from the run.

    They are its keyword arguments; for an argument whose type is a dataclass, such as ``initial`` of networks, they are
    the fields. So options that several plugins share are written once.
    """
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in signature(plugin).items():
        shared = is_dataclass(parameter.annotation)
        parameters.update(signature(parameter.annotation) if shared else {name: parameter})
    return parameters


def build(kind: str, name: str, options: dict[str, Any], **offered: Any) -> Any:
    """Build a plugin from its options in params.yaml, and from those offered facts that its signature names.

    Args:
        options: values by key.
        offered: facts that only the run knows (``num_classes``, ...); ignored when the signature does not name them.

    Raises:
        UserError: unknown or missing options, all at once, each with the closest name.
    """
    plugin = load(kind, name)
    allowed = keys(plugin)
    problems = Problems(f"{kind}.{name}")
    for key in options:
        if key not in allowed or key in offered:
            problems.add(f"{key}: unknown option; {closest(key, set(allowed) - set(offered))}")
    values = {**{key: value for key, value in offered.items() if key in allowed}, **options}
    for key, parameter in allowed.items():
        if key not in values and parameter.default is inspect.Parameter.empty:
            problems.add(f"{key}: missing; it has no default")
    problems.raise_if_any()
    return plugin(**_arguments(plugin, values))


def _arguments(plugin: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """Values by key as arguments of a constructor: the fields of a dataclass become one argument."""
    arguments: dict[str, Any] = {}
    for name, parameter in signature(plugin).items():
        if is_dataclass(parameter.annotation):
            shared: Any = parameter.annotation
            arguments[name] = shared(**{key: values[key] for key in signature(shared) if key in values})
        elif name in values:
            arguments[name] = values[name]
    return arguments
