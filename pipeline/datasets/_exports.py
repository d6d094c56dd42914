"""Files of annotation tools: read JSON that may be damaged, and refuse file names that lead outside the root."""

from __future__ import annotations

import json
import posixpath
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pipeline.datasets._pairs import existing
from pipeline.errors import UserError


def loaded(path: Path) -> Any:
    """The content of a JSON file. Raises UserError: the file is missing, unreadable or damaged."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore it or correct its path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); export it again") from error


def inside(root: Path, folder: str, name: str) -> Path:
    """The path of a file that an annotation names.

    Args:
        folder: folder below the root that contains the file.
        name: path relative to ``folder``; separators are ``/`` or ``\\``.

    Raises:
        UserError: the name is empty, absolute, or points outside the root.
    """
    text = name.replace("\\", "/")
    path = posixpath.normpath(posixpath.join(folder, text))
    absolute = PureWindowsPath(text).anchor or text.startswith("/")
    if not text.strip() or not text.isprintable() or absolute or PurePosixPath(path).parts[:1] == ("..",):
        advice = (
            ""
            if absolute or ".." not in text.split("/")
            else "; or set root to a folder that contains both the annotations and this file"
        )
        raise UserError(f"{name!r} points outside {root}; file names must be relative paths below it{advice}")
    return existing(root / path)
