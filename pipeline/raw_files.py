"""What the raw data of a data set are: files outside the graph, recognised by their names and bytes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

from pipeline import digests
from pipeline.datasets import Dataset


def fingerprint(dataset: Dataset, *, progress: Callable[[str, int], object] = lambda *step: None) -> dict[str, Any]:
    """Equal as long as `prepare` would read the same: times, other files and the place of the folder do not count.

    Args:
        progress: see :func:`pipeline.digests.of`.

    Returns:
        number of ``files`` that the data set reads, how many of them are ``missing`` or unreadable, and the ``sha256``
        of their names and contents, of the splits, and of faults of lists and layout.
    """
    root = os.fspath(getattr(dataset, "root", os.curdir))
    remembered = os.path.abspath(root)  # noqa: PTH100 - links stay
    found = digests.of(dict.fromkeys(dataset.raw_files()), remembered=remembered, progress=progress)
    whole = {
        "splits": {split: list(names) for split, names in dataset.splits().items()},
        "faults": list(dataset.faults()),
        "files": sorted((_below(root, os.fspath(file)), digest or "") for file, digest in found.items()),
    }
    return {
        "files": len(found),
        "missing": sum(digest is None for digest in found.values()),
        "sha256": hashlib.sha256(json.dumps(whole).encode()).hexdigest(),
    }


def _below(root: str, file: str) -> str:
    return file[len(root) + 1 :] if file.startswith(f"{root}{os.sep}") else os.path.relpath(file, root)
