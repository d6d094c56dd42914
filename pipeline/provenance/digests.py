"""sha256 of files that are not in DVC's graph. A file whose size and times are those of the last run is not read again.

The hashes are stored in the user's cache folder, so that all checkouts and all experiments share them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pipeline import artifact

WORKERS = 8  # threads: most of the time they wait for the disk or the network, and hashing releases Python's lock
CHUNK = 256  # number of files that a thread checks at once
#: Nanoseconds. A file that was written more recently could change again without a change of its times, so its hash is
#: not stored.
SETTLED_NS = 2_000_000_000


class Seen(NamedTuple):
    """A file at the last run."""

    size: int
    mtime_ns: int
    ctime_ns: int
    sha256: str


def of(
    files: Iterable[Path], *, remembered: str, progress: Callable[[str, int], object] = lambda *step: None
) -> dict[Path, str | None]:
    """sha256 of the content of each file; None for a file that cannot be read.

    Args:
        remembered: name of the store for these hashes, such as the folder of the files.
        progress: called with (title, number of files to read) after each file that was read.
    """
    memory, listed, now = _memory(remembered), list(files), time.time_ns()
    before = _recall(memory)
    with ThreadPoolExecutor(WORKERS) as pool:
        chunks = [listed[start : start + CHUNK] for start in range(0, len(listed), CHUNK)]
        known = [seen for part in pool.map(lambda chunk: _known(chunk, before), chunks) for seen in part]
        digests = {file: seen.sha256 if seen else None for file, seen in zip(listed, known, strict=True)}
        unread = [file for file, seen in zip(listed, known, strict=True) if seen is None]
        after = dict(before)
        for file, seen in zip(unread, pool.map(_read, unread), strict=True):
            digests[file] = seen.sha256 if seen else None
            if seen and max(seen.mtime_ns, seen.ctime_ns) < now - SETTLED_NS:
                after[os.path.abspath(file)] = seen  # noqa: PTH100 - resolve() would follow the links of every file
            progress("changed files", len(unread))
    if after != before:
        _remember(memory, after)
    return digests


def _known(files: Sequence[Path], before: Mapping[str, Seen]) -> list[Seen | None]:
    """The record of the last run for each file; None if there is none, or if size or times changed."""
    records: list[Seen | None] = []
    for file in files:
        seen = before.get(os.path.abspath(file))  # noqa: PTH100
        try:
            now = os.stat(file) if seen else None  # noqa: PTH116 - twice as fast as Path.stat
        except OSError:
            now = None
        same = seen is not None and now is not None and (now.st_size, now.st_mtime_ns, now.st_ctime_ns) == seen[:3]
        records.append(seen if same else None)
    return records


def _read(file: Path) -> Seen | None:
    """Size, times and sha256 of a file; None if it cannot be read.

    If the file was written during the reading, its times are set so that its hash is not stored.
    """
    try:
        with file.open("rb") as stream:
            before, digest = os.fstat(stream.fileno()), hashlib.sha256()
            while block := stream.read(1 << 20):
                digest.update(block)
            after = os.fstat(stream.fileno())
    except OSError:
        return None
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    times = (after.st_mtime_ns, after.st_ctime_ns) if same else (time.time_ns(), 0)
    return Seen(after.st_size, *times, digest.hexdigest())


def _memory(name: str) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - never raises
    short = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return Path(cache, "segpress", "digests", f"{short}.json")


def _recall(memory: Path) -> dict[str, Seen]:
    try:
        return {file: Seen(*entry) for file, entry in json.loads(memory.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}  # missing or damaged: every file is read


def _remember(memory: Path, seen: Mapping[str, Seen]) -> None:
    with contextlib.suppress(OSError):  # without the store, the next run only takes longer
        artifact.write_text(memory, json.dumps(seen))
