"""The loss of a student as params.yaml writes it: a name, a list of names, or a mapping of names to options.

``kd``, ``[kd, fitnet]`` and ``{kd: {}, fitnet: {weight: 5.0}}`` all become a mapping of loss names to options. Options
come from ``losses.<name>``; those in the mapping stand above them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline import artifact

Options = dict[str, Any]
FOLDER = Path(__file__).parent / "losses"
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


def sources(names: Iterable[str], *, folder: Path = FOLDER) -> dict[str, str]:
    """sha256 of each loss's file and of every file of ``pipeline/losses`` that it imports, directly or not."""
    found: dict[str, str] = {}
    queue = list(names)
    while queue:
        file = folder / f"{queue.pop()}.py"
        if file.name not in found:
            found[file.name] = artifact.sha256(file)
            queue += [name for name in _imports(file) if (folder / f"{name}.py").is_file()]
    return dict(sorted(found.items()))


def _imports(file: Path) -> set[str]:
    """Modules of ``pipeline.losses`` that a file names in its imports, wherever they stand."""
    prefix = "pipeline.losses"
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = f"{prefix}.{base}".rstrip(".")
            found.update({base, *(f"{base}.{alias.name}" for alias in node.names)})
    return {name.split(".")[2] for name in found if name.startswith(f"{prefix}.")}
