"""Files by patterns with wildcards, named by what the wildcards stand for."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from pipeline.datasets._images import SUFFIXES
from pipeline.errors import Faults


def compiled(pattern: str, faults: Faults, *, key: str) -> re.Pattern[str]:
    """A pattern as a regular expression with a group for each wildcard.

    Args:
        pattern: path below a root; ``*`` is part of a name, ``**`` any folders. The suffix of the last part may have
            any case; without one, any image's is taken.
        faults: gets a line when the pattern is none.
        key: name of the option, for that line.

    Example:
        >>> compiled("masks/**/*_id.png", Faults("x"), key="masks").fullmatch("masks/a/b/7_id.PNG").groups()
        ('a/b/', '7')
    """
    *folders, last = pattern.split("/")
    if "*" not in last or "**" in last or folders[:1] == [""] or ".." in folders:
        faults.add(f"{key}: got {pattern!r}; allowed: a path below the root with a * in its last part: images/*.jpg")
        return re.compile("")
    text = "".join(r"((?:[^/]+/)*)" if part == "**" else f"{_part(part)}/" for part in folders)
    stem, dot, suffix = last.rpartition(".")
    named = dot and "*" not in suffix
    return re.compile(text + (f"{_part(stem)}(?i:{re.escape(dot + suffix)})" if named else _part(last) + r"\.[^./]+"))


def _part(part: str) -> str:
    return "".join("([^/]*)" if piece == "*" else re.escape(piece) for piece in re.split(r"(\*)", part))


def find(
    root: Path, pattern: re.Pattern[str], wrong: list[str], *, suffixes: Collection[str] = SUFFIXES
) -> dict[str, Path]:
    """Files of these suffixes that match, by what the wildcards stand for (joined with ``/``), in order.

    Hidden files and folders are passed over; links to folders are followed, each folder once.

    Args:
        wrong: gets a line for each file that stands for the same as another.
    """
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        below[:] = [] if place in seen else sorted(name for name in below if not name.startswith("."))
        for file in [] if place in seen else sorted(files):
            path = Path(folder) / file
            match = pattern.fullmatch(path.relative_to(root).as_posix())
            if match is None or file.startswith(".") or path.suffix.lower() not in suffixes:
                continue
            name = "/".join(part.strip("/") for part in match.groups() if part.strip("/"))
            if name in found:
                wrong.append(f"{path}: the same sample as {found[name]}; remove one, or narrow the pattern")
            found.setdefault(name, path)
        seen.add(place)
    return dict(sorted(found.items()))
