"""Fingerprint of raw data: files outside the DVC graph, identified by their names and bytes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
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
    files = {file: _below(root, os.fspath(file)) for file in dataset.raw_files()}
    content = {
        "splits": {split: list(names) for split, names in dataset.splits().items()},
        "problems": list(dataset.problems()),
    }
    return of_files(files, content=content, remembered=os.path.abspath(root), progress=progress)  # noqa: PTH100 - it keeps links


def of_files(
    files: Mapping[Path, str],
    *,
    content: Mapping[str, Any],
    remembered: str,
    progress: Callable[[str, int], object] = lambda *step: None,
) -> dict[str, Any]:
    """The fingerprint of files and of what else is read of them.

    Args:
        files: file -> name, which does not depend on where the data are.
        content: further facts, as plain values.
        remembered, progress: see :func:`pipeline.provenance.digests.of`.
    """
    digest_of = digests.of(files, remembered=remembered, progress=progress)
    named = sorted((files[file], digest or "") for file, digest in digest_of.items())
    return {
        "files": len(digest_of),
        "missing": sum(digest is None for digest in digest_of.values()),
        "sha256": hashlib.sha256(json.dumps({**content, "files": named}).encode()).hexdigest(),
    }


def _below(root: str, file: str) -> str:
    return file[len(root) + 1 :] if file.startswith(f"{root}{os.sep}") else os.path.relpath(file, root)
