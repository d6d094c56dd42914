"""The folders below a root, as every data set reads them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each folder at and below a root, with the sorted names of its files; nothing if the root is no folder.

    Hidden files and folders are skipped. Links to folders are followed; each folder is read once.

    Raises:
        OSError: a folder cannot be read. Its files must not be missing without a message.
    """
    visited: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(folder), sorted(name for name in files if not name.startswith("."))


def _unreadable(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):  # others report a missing root
        raise error
