"""The loss of a student as params.yaml writes it: a name, a list of names, or a mapping of names to options.

``kd``, ``[kd, fitnet]`` and ``{kd: {}, fitnet: {weight: 5.0}}`` all become a mapping of loss names to options. Options
come from ``losses.<name>``; those in the mapping stand above them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline import artifact, provenance
from pipeline.errors import UserError

Options = dict[str, Any]
FOLDER = "pipeline/losses/"
FORMS = "a name (kd), a list of names ([kd, fitnet]) or names with their options ({kd: {}, fitnet: {weight: 5.0}})"
#: The loss that adds nothing, and so stands alone.
NOTHING = "none"


def form_fault(loss: Any) -> str:
    """What is wrong with the form of a loss in params.yaml; empty when nothing is. Names are not looked up."""
    if isinstance(loss, str):
        return ""
    if not isinstance(loss, (list, dict)) or not all(isinstance(name, str) for name in loss):
        return f"allowed: {FORMS}"
    bare = [name for name, options in loss.items() if not isinstance(options, dict)] if isinstance(loss, dict) else []
    faults = {
        f"at least one loss is needed; '{NOTHING}' is the student alone": not loss,
        "a loss is named twice; name each once, and change its weight by its options": len(set(loss)) < len(loss),
        f"the options of {', '.join(bare)} must be a section, such as {{}} or {{weight: 5.0}}": bool(bare),
        f"'{NOTHING}' is the student alone and mixes with nothing; leave it out": NOTHING in loss and len(loss) > 1,
    }
    return next((fault for fault, found in faults.items() if found), "")


def overrides(loss: Any) -> dict[str, Options]:
    """Loss names, in the order they are written, with the options that stand beside them.

    Args:
        loss: of a form in which :func:`form_fault` finds nothing.

    Example:
        >>> overrides("kd"), overrides(["kd", "fitnet"]), overrides({"kd": {"weight": 2.0}})
        ({'kd': {}}, {'kd': {}, 'fitnet': {}}, {'kd': {'weight': 2.0}})
    """
    if isinstance(loss, str):
        return {loss: {}}
    return {name: dict(loss[name]) if isinstance(loss, dict) else {} for name in loss}


def resolve(loss: Any, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Options]:
    """Loss names with all their options: those of ``losses.<name>``, then those beside the name."""
    return {name: {**options.get(name, {}), **own} for name, own in overrides(loss).items()}


def title(names: Iterable[str]) -> str:
    """How a loss is called in tables and files: ``kd+fitnet``."""
    return "+".join(names)


def facts(recipe: Mapping[str, Options]) -> dict[str, Any]:
    """What a training depends on: ``name``, ``options``, and the ``sources`` (sha256) of the losses."""
    return {"name": title(recipe), "options": dict(recipe), "sources": sources(recipe)}


def sources(names: Iterable[str], *, root: Path = provenance.ROOT) -> dict[str, str]:
    """sha256 of each loss's file and of every file of ``pipeline/losses`` that it imports, by path."""
    found = provenance.code([f"{FOLDER}{name}.py" for name in names], root=root)
    return {path: digest for path, digest in found.items() if path.startswith(FOLDER)}


def read(file: Path) -> dict[str, Any]:
    """The losses in a file of the stage ``sources``, see :func:`facts`.

    Raises:
        UserError: no such file, no JSON, or no losses in it.
    """
    advice = "write it with: dvc repro sources"
    found = artifact.read_json(file, advice=advice).get("loss")
    if not isinstance(found, dict):
        raise UserError(f"{file}: names no losses; needed: <out>/distill/<student>.json of the stage sources; {advice}")
    return found
