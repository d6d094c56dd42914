"""Files of annotation tools: JSON that may be damaged, and names in it that may lead anywhere."""

from __future__ import annotations

import json
import posixpath
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pipeline.datasets._pairs import existing
from pipeline.errors import UserError


def loaded(path: Path) -> Any:
    """What a JSON file holds. Raises UserError: missing, unreadable or damaged."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore it or correct its path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); export it again") from error


def inside(root: Path, folder: str, name: str) -> Path:
    """The file that an annotation names.

    Args:
        folder: that the name counts from, below the root.
        name: relative; Windows' separators are taken too.

    Raises:
        UserError: the name is empty, absolute, or points outside the root.
    """
    text = name.replace("\\", "/")
    path = posixpath.normpath(posixpath.join(folder, text))
    absolute = PureWindowsPath(text).anchor or text.startswith("/")
    if not text.strip() or not text.isprintable() or absolute or PurePosixPath(path).parts[:1] == ("..",):
        above = (
            ""
            if absolute or ".." not in text.split("/")
            else "; set root to the folder that holds both, if there is one"
        )
        raise UserError(f"{name!r} points outside {root}; file names must be relative and stay below it{above}")
    return existing(root / path)
