"""The verbs of ``segpress``. File name = verb: ``check_bundle.py`` is ``segpress check-bundle``; no list to edit.

The first line of a file is its line in ``segpress --help``; the file is imported when its verb runs. It holds
``main(arguments)``, which returns an exit status, or None for 0. The file of a verb that is a
Python keyword ends with ``_``: ``import_.py`` is ``segpress import``. Files with a leading underscore are not verbs.
"""

from __future__ import annotations

import argparse
import ast
import importlib
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError, closest

FOLDER = Path(__file__).parent
#: Packages of the base install, by the name that Python imports.
BASE = {"numpy": "numpy", "cv2": "opencv-python"}


def available() -> dict[str, str]:
    """Verbs, sorted, with the sentence that each file begins with; nothing is imported."""
    files = sorted(file for file in FOLDER.glob("*.py") if not file.stem.startswith("_"))
    return {_verb(file.stem): _summary(file) for file in files}


def file_of(name: str) -> Path:
    """The file of a verb in :func:`available`."""
    return next(file for file in FOLDER.glob("*.py") if _verb(file.stem) == name)


def new_parser(module: str, text: str | None) -> argparse.ArgumentParser:
    """The parser of a verb.

    Args:
        module: ``__name__`` of its file.
        text: ``__doc__`` of its file.
    """
    name = _verb(module.rpartition(".")[2])
    return argparse.ArgumentParser(
        prog=f"segpress {name}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def run(name: str, arguments: Sequence[str]) -> int:
    """Run a verb; returns its exit status.

    Raises:
        UserError: there is no such verb, or a package that it needs is missing.
    """
    verbs = available()
    if name not in verbs:
        raise UserError(f"segpress has no verb '{name}'; {closest(name, verbs)}")
    try:
        status: int | None = importlib.import_module(f"{__name__}.{file_of(name).stem}").main(list(arguments))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "pipeline"):
            raise  # our bug
        fix = f"pip install {BASE[package]}" if package in BASE else "in the repository, run: pip install '.[train]'"
        raise UserError(f"segpress {name} needs the package {package}, which is not installed; {fix}") from error
    return status or 0


def _verb(stem: str) -> str:
    return stem.rstrip("_").replace("_", "-")


def _summary(file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]
