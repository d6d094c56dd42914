"""The code of each stage: the files that it imports, directly and indirectly, each with its sha256.

DVC compares these lists, so a stage runs again exactly when a file changes on which its result depends. Imports inside
functions count too. Plugins are imported by name at run time: those that params.yaml chooses are added to the stages
that use their kind.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from pipeline import artifact

ROOT = Path(__file__).parents[2]
PACKAGE = "pipeline"
#: Modules that check values, print, or measure the run itself. No result depends on them, or on modules that only they
#: import.
WITHOUT_EFFECT = frozenset(
    f"{PACKAGE}/{name}.py"
    for name in (
        *("errors", "progress", "option_values"),
        *("settings/params", "settings/param_types", "settings/plugin_options", "settings/yaml_file"),
        *("settings/training_params", "settings/unlabelled", "settings/presets", "settings/__init__"),
        "provenance/__init__",
        *("provenance/closure", "settings/loss_mixture"),  # their results are in the files of the stage `sources`
        *("training/memory", "training/free_memory", "training/ledger", "training/curves", "training/costs"),
    )
)
#: Pattern of strings that may be the name of a data file.
DATA_FILE = re.compile(r"[\w-]+(\.[\w-]+)+")
#: Kinds of plugin that each stage uses.
KINDS = {
    "prepare": ("datasets",),
    "prepare_unlabelled": (),
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
    """sha256 of some files and of all files of the package that they import, directly or indirectly.

    Args:
        starts: paths from the root, such as ``stages/export.py``.
        root: the folder with ``pipeline`` and ``stages``.

    Returns:
        from path (relative to the root, sorted) to sha256; without :data:`WITHOUT_EFFECT`.

    Raises:
        OSError, SyntaxError: a file is missing or is not Python.
    """
    digests: dict[str, str] = {}
    queue = list(starts)
    while queue:
        path = queue.pop()
        if path in digests or path in WITHOUT_EFFECT:
            continue
        digests[path] = artifact.sha256(root / path)
        if path.endswith(".py"):
            queue += imports(root, path, digests[path])
    return dict(sorted(digests.items()))


def of_stage(name: str, chosen: Mapping[str, Iterable[str]], *, root: Path = ROOT) -> dict[str, str]:
    """The code of a stage.

    Args:
        name: of the stage and of its script.
        chosen: for each kind of plugin, the names that params.yaml chooses; only kinds that the stage uses count.
    """
    plugins = [f"{PACKAGE}/{kind}/{plugin}.py" for kind in KINDS[name] for plugin in chosen.get(kind, ())]
    return code([f"stages/{name}.py", *plugins], root=root)


@cache
def imports(root: Path, path: str, digest: str) -> tuple[str, ...]:
    """Files of the package that one file imports, and data files in its folder that it names in a string.

    Args:
        digest: sha256 of the file; part of the cache key, so that a changed file is read again.
    """
    file = root / path
    names: set[str] = set()
    files: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), filename=str(file))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = path.split("/")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_file_beside(node.value, file):
            files.add(f"{path.rpartition('/')[0]}/{node.value}")
    for name in names:
        parts = name.split(".")
        if parts[0] == PACKAGE:
            files.update(_files(root, parts))
    return tuple(sorted(files))


def _files(root: Path, parts: list[str]) -> Iterable[str]:
    """Files that Python runs to import a module: its own file and the ``__init__.py`` of every package above it."""
    for end in range(1, len(parts) + 1):
        path = "/".join(parts[:end])
        for file in (f"{path}/__init__.py", f"{path}.py"):
            if (root / file).is_file():
                yield file


def _is_file_beside(text: str, file: Path) -> bool:
    """Whether a string is the name of a data file in the same folder."""
    return bool(DATA_FILE.fullmatch(text)) and not text.endswith(".py") and (file.parent / text).is_file()
