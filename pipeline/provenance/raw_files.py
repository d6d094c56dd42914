"""Fingerprint of the raw data of a data set: files outside the DVC graph, identified by their names and bytes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

from pipeline.datasets import Dataset
from pipeline.provenance import digests


def fingerprint(dataset: Dataset, *, progress: Callable[[str, int], object] = lambda *step: None) -> dict[str, Any]:
    """The fingerprint changes only if `prepare` would read other data. It does not depend on file times, on other
    files, or on the path of the root folder.

    Args:
        progress: see :func:`pipeline.provenance.digests.of`.

    Returns:
        ``files``: number of files that the data set reads; ``missing``: how many of them are missing or unreadable;
        ``sha256``: digest of their names and contents, of the splits, and of the errors in list files and folders.
    """
    root = os.fspath(getattr(dataset, "root", os.curdir))
    remembered = os.path.abspath(root)  # noqa: PTH100 - it keeps links
    digest_of = digests.of(dict.fromkeys(dataset.raw_files()), remembered=remembered, progress=progress)
    content = {
        "splits": {split: list(names) for split, names in dataset.splits().items()},
        "problems": list(dataset.problems()),
        "files": sorted((_below(root, os.fspath(file)), digest or "") for file, digest in digest_of.items()),
    }
    return {
        "files": len(digest_of),
        "missing": sum(digest is None for digest in digest_of.values()),
        "sha256": hashlib.sha256(json.dumps(content).encode()).hexdigest(),
    }


def _below(root: str, file: str) -> str:
    return file[len(root) + 1 :] if file.startswith(f"{root}{os.sep}") else os.path.relpath(file, root)
