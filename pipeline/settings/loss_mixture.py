"""The loss of a student as params.yaml writes it: a name, a list of names, or a mapping of names to options.

``kd``, ``[kd, fitnet]`` and ``{kd: {}, fitnet: {weight: 5.0}}`` all become a mapping of loss names to options. Options
come from ``losses.<name>``; those in the mapping override them. ``canonical`` stands for a mixture, see ``RECIPES``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.provenance import closure

Options = dict[str, Any]
FOLDER = "pipeline/losses/"
#: Names of mixtures, with their losses and options. A name may stand wherever params.yaml names a loss.
RECIPES: Mapping[str, Mapping[str, Options]] = {
    "canonical": {
        "kd": {"weight": "auto"},
        "fitnet": {"weight": "auto", "normalize": "channels", "adapter": "norm"},
    }
}
FORMS = "a name (kd), a list of names ([kd, fitnet]) or names with their options ({kd: {}, fitnet: {weight: 5.0}})"
#: The loss without terms, which cannot be combined with others.
NOTHING = "none"


def form_problem(loss: Any) -> str:
    """The problem of the form of a loss in params.yaml; empty if it is valid. Names are not checked."""
    if isinstance(loss, str):
        return ""
    if not isinstance(loss, (list, dict)) or not all(isinstance(name, str) for name in loss):
        return f"allowed: {FORMS}"
    bare = [name for name, options in loss.items() if not isinstance(options, dict)] if isinstance(loss, dict) else []
    changed = [name for name in loss if isinstance(loss, dict) and name in RECIPES and loss[name]]
    problems = {
        f"at least one loss is needed; '{NOTHING}' is the student alone": not loss,
        "a loss is named twice; name each once, and change its weight by its options": _named_twice(loss),
        f"the options of {', '.join(bare)} must be a section, such as {{}} or {{weight: 5.0}}": bool(bare),
        f"{', '.join(changed)} has no options; write out what it stands for: {_written(changed)}": bool(changed),
        f"'{NOTHING}' is the student alone and cannot be combined with others; leave it out": (
            NOTHING in loss and len(loss) > 1
        ),
    }
    return next((problem for problem, is_true in problems.items() if is_true), "")


def _named_twice(loss: Iterable[str]) -> bool:
    names = [name for given in loss for name in RECIPES.get(given, [given])]
    return len(set(names)) < len(names)


def _written(recipes: Iterable[str]) -> str:
    """Recipes as params.yaml would have them."""
    return json.dumps([RECIPES[name] for name in recipes])[1:-1].replace('"', "")


def overrides(loss: Any) -> dict[str, Options]:
    """Loss names, in the order of params.yaml, with the options in the mapping.

    Args:
        loss: of a valid form, see :func:`form_problem`.

    Example:
        >>> overrides("kd"), overrides(["kd", "fitnet"]), overrides({"kd": {"weight": 2.0}})
        ({'kd': {}}, {'kd': {}, 'fitnet': {}}, {'kd': {'weight': 2.0}})
    """
    chosen = loss if isinstance(loss, dict) else {name: {} for name in ([loss] if isinstance(loss, str) else loss)}
    written_out = (RECIPES.get(name, {name: options}) for name, options in chosen.items())
    return {name: dict(options) for mixture in written_out for name, options in mixture.items()}


def resolve(loss: Any, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Options]:
    """Loss names with all their options: those of ``losses.<name>``, overridden by those beside the name."""
    return {name: {**options.get(name, {}), **own} for name, own in overrides(loss).items()}


def title(names: Iterable[str]) -> str:
    """The name of a loss in tables and files: ``kd+fitnet``."""
    return "+".join(names)


def facts(mixture: Mapping[str, Options]) -> dict[str, Any]:
    """Facts about the losses that a training depends on: ``name``, ``options``, and ``sources`` (sha256)."""
    return {"name": title(mixture), "options": dict(mixture), "sources": sources(mixture)}


def sources(names: Iterable[str], *, root: Path = closure.ROOT) -> dict[str, str]:
    """sha256 of each loss's file and of every file of ``pipeline/losses`` that it imports, by path."""
    code = closure.code([f"{FOLDER}{name}.py" for name in names], root=root)
    return {path: digest for path, digest in code.items() if path.startswith(FOLDER)}


def read(file: Path) -> dict[str, Any]:
    """The losses in a file of the stage ``sources``, see :func:`facts`.

    Raises:
        UserError: the file is missing, is not JSON, or names no losses.
    """
    advice = "write it with: dvc repro sources"
    losses = artifact.read_json(file, advice=advice).get("loss")
    if not isinstance(losses, dict):
        raise UserError(f"{file}: names no losses; needed: <out>/distill/<student>.json of the stage sources; {advice}")
    return losses
