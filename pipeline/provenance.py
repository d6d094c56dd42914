"""The code behind a result: the files that a stage imports, directly and indirectly, each with its sha256.

DVC compares these lists instead of hand-kept ones in ``dvc.yaml``, so a stage runs again when a file changes that its
result depends on, and only then. Imports count wherever they stand in a file, also in functions. Plugins are imported
by name at run time; those that params.yaml chooses are added to the stages that use their kind.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from pipeline import artifact

ROOT = Path(__file__).parents[1]
PACKAGE = "pipeline"
#: Modules that check values, report, or measure the run itself: no result depends on them or on what only they import.
WITHOUT_EFFECT = frozenset(
    f"{PACKAGE}/{name}.py"
    for name in (
        *("errors", "progress", "inspection", "contact_sheet"),
        *("params", "param_types", "plugin_options", "option_values", "yaml_file", "presets"),
        *("provenance", "recipes"),  # what they give is in the files of the stage `sources`
        *("training/memory", "training/free_memory", "training/ledger", "training/curves", "training/costs"),
    )
)
#: How a string looks that may be the name of a data file.
DATA_FILE = re.compile(r"[\w-]+(\.[\w-]+)+")
#: Kinds of plugin that each stage uses.
KINDS = {
    "prepare": ("datasets",),
    "train_teacher": ("models",),
    "distill": ("models", "losses"),
    "qat": ("models", "losses"),
    "export": ("models",),
    "calibrate": (),
    "quantize": (),
    "convert": ("runtimes",),
    "check": ("models", "runtimes"),
    "report": (),
    "gate": (),
}


def code(starts: Iterable[str], *, root: Path = ROOT) -> dict[str, str]:
    """sha256 of some files and of all files of the package that they import.

    Args:
        starts: paths from the root, such as ``stages/export.py``.
        root: the folder that holds ``pipeline`` and ``stages``.

    Returns:
        by path from the root, sorted; without :data:`WITHOUT_EFFECT`.

    Raises:
        OSError, SyntaxError: a file is missing or no Python.
    """
    found: dict[str, str] = {}
    waiting = list(starts)
    while waiting:
        path = waiting.pop()
        if path in found or path in WITHOUT_EFFECT:
            continue
        digest = artifact.sha256(root / path)
        found[path] = digest
        if path.endswith(".py"):
            waiting += imports(root, path, digest)
    return dict(sorted(found.items()))


def of_stage(name: str, chosen: Mapping[str, Iterable[str]], *, root: Path = ROOT) -> dict[str, str]:
    """The code of a stage.

    Args:
        name: of the stage and its script.
        chosen: names of plugins by kind; kinds that the stage does not use are left out.
    """
    plugins = [f"{PACKAGE}/{kind}/{plugin}.py" for kind in KINDS[name] for plugin in chosen.get(kind, ())]
    return code([f"stages/{name}.py", *plugins], root=root)


@cache
def imports(root: Path, path: str, digest: str) -> tuple[str, ...]:
    """Files of the package that one file imports, and files beside it that it names in a string, such as a template.

    Args:
        digest: sha256 of the file, so that a changed file is read again.
    """
    file = root / path
    names: set[str] = set()
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), filename=str(file))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = path.split("/")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_file_beside(node.value, file):
            found.add(f"{path.rpartition('/')[0]}/{node.value}")
    for name in names:
        parts = name.split(".")
        if parts[0] == PACKAGE:
            found.update(_files(root, parts))
    return tuple(sorted(found))


def _files(root: Path, parts: list[str]) -> Iterable[str]:
    """Files that Python runs to import a module: those of the packages that it is in, and its own."""
    for end in range(1, len(parts) + 1):
        path = "/".join(parts[:end])
        for file in (f"{path}/__init__.py", f"{path}.py"):
            if (root / file).is_file():
                yield file


def _is_file_beside(text: str, file: Path) -> bool:
    """Whether a string is the name of a data file in the same folder."""
    return bool(DATA_FILE.fullmatch(text)) and not text.endswith(".py") and (file.parent / text).is_file()
