"""sha256 of files outside the graph. A file with the size and times of the last run is not read again.

The hashes lie in the user's cache folder, so that all checkouts and temporary folders of experiments share it.
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

WORKERS = 8  # threads: they wait for the disk or the network, and hashing leaves Python's lock
CHUNK = 256  # files that a thread checks at once
#: A file that was written so shortly before the run may be written again within the same tick of its clock.
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
    """sha256 of the content of each file, None where there is no readable file.

    Args:
        remembered: name of the memory, such as the folder that the files are in.
        progress: called with (title, number of files to read) after each file that had to be read.
    """
    memory, listed, now = _memory(remembered), list(files), time.time_ns()
    before = _recall(memory)
    with ThreadPoolExecutor(WORKERS) as pool:
        chunks = [listed[start : start + CHUNK] for start in range(0, len(listed), CHUNK)]
        known = [seen for part in pool.map(lambda chunk: _known(chunk, before), chunks) for seen in part]
        found = {file: seen.sha256 if seen else None for file, seen in zip(listed, known, strict=True)}
        unread = [file for file, seen in zip(listed, known, strict=True) if seen is None]
        after = dict(before)
        for file, seen in zip(unread, pool.map(_read, unread), strict=True):
            found[file] = seen.sha256 if seen else None
            if seen and max(seen.mtime_ns, seen.ctime_ns) < now - SETTLED_NS:
                after[os.path.abspath(file)] = seen  # noqa: PTH100 - resolve() would follow links, file by file
            progress("changed files", len(unread))
    if after != before:
        _remember(memory, after)
    return found


def _known(files: Sequence[Path], before: Mapping[str, Seen]) -> list[Seen | None]:
    """What the last run found of each file; None where size or times changed."""
    found: list[Seen | None] = []
    for file in files:
        seen = before.get(os.path.abspath(file))  # noqa: PTH100
        try:
            now = os.stat(file) if seen else None  # noqa: PTH116 - half the time of Path.stat
        except OSError:
            now = None
        same = seen is not None and now is not None and (now.st_size, now.st_mtime_ns, now.st_ctime_ns) == seen[:3]
        found.append(seen if same else None)
    return found


def _read(file: Path) -> Seen | None:
    """Size, times and content; times of zero, which are never taken for known, where it was written meanwhile."""
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
        return {}  # none yet, or damaged: everything is read


def _remember(memory: Path, seen: Mapping[str, Seen]) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        artifact.write_text(memory, json.dumps(seen))
