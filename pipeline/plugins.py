"""Plugins: file name = key. ``pipeline/losses/kd.py`` is ``loss: kd``; there is no registry to edit.

A plugin file holds exactly one public class that derives from its kind's base class (``_base.py``).
Names with a leading underscore are private to the kind.
"""

from __future__ import annotations

import importlib
import inspect
import types
from pathlib import Path
from typing import Any

from pipeline.errors import Faults, UserError, closest

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
    classes = (
        value
        for key, value in vars(module).items()
        if inspect.isclass(value)
        and getattr(value, "__module__", "") == module.__name__
        and not key.startswith("_")
        and not isinstance(value, types.GenericAlias)  # Python 3.10 takes a type alias for a class
        and issubclass(value, base)
    )
    found = list(dict.fromkeys(classes))  # a class under two names is one class
    if len(found) != 1:
        raise UserError(
            f"pipeline/{kind}/{name}.py must hold exactly one public {base.__name__}; it holds "
            f"{', '.join(cls.__name__ for cls in found) or 'none'}"
        )
    plugin: type[Any] = found[0]
    return plugin


def signature(plugin: type[Any]) -> dict[str, inspect.Parameter]:
    """The keyword arguments of a plugin class: the schema of its section in params.yaml."""
    parameters = inspect.signature(plugin).parameters
    return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def build(kind: str, name: str, options: dict[str, Any], **offered: Any) -> Any:
    """Make a plugin: its options from params.yaml, plus those offered facts that its signature names.

    Args:
        options: checked against the signature; unknown ones are refused.
        offered: facts only the run knows (``num_classes``, ...); dropped when the signature does not name them.

    Raises:
        UserError: unknown or missing options, all at once, each with the closest name.
    """
    plugin = load(kind, name)
    allowed = signature(plugin)
    faults = Faults(f"{kind}.{name}")
    for key in options:
        if key not in allowed or key in offered:
            faults.add(f"{key}: unknown option; {closest(key, set(allowed) - set(offered))}")
    given = {**{key: value for key, value in offered.items() if key in allowed}, **options}
    for key, parameter in allowed.items():
        if key not in given and parameter.default is inspect.Parameter.empty:
            faults.add(f"{key}: missing; it has no default")
    faults.raise_if_any()
    return plugin(**given)
