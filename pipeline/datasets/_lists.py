"""List files that name the samples of a split, one a line; every broken line is a fault of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath


def lines(path: Path, faults: list[str]) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty. An unreadable file is added to ``faults`` and has none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        faults.append(f"{path.name}: missing; it belongs into {path.parent}")
        return
    except UnicodeDecodeError as error:
        faults.append(f"{path.name}: not a text file in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8")
        return
    except OSError as error:
        faults.append(f"{path.name}: cannot be read ({error.strerror})")
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def entries(path: Path, faults: list[str], *, name_of: Callable[[str], str] = str) -> list[tuple[int, str]]:
    """Line number and name of each sample in a list, in its order; bad and repeated ones are faults and left out.

    Args:
        name_of: makes a name of a line.
    """
    found: dict[str, int] = {}
    before = len(faults)
    for number, line in lines(path, faults):
        if not safe(name := name_of(line)):
            faults.append(f"{path.name}:{number}: not the name of one sample: {line!r}; correct the line")
        elif name in found:
            faults.append(f"{path.name}:{number}: {name} is listed twice, first in line {found[name]}; remove one")
        else:
            found[name] = number
    if not found and len(faults) == before:
        faults.append(f"{path.name}: lists no sample")
    return [(number, name) for name, number in found.items()]


def names(path: Path, faults: list[str]) -> list[str]:
    """Sample names of a list that has ``name`` or ``/images/name.jpg /masks/name.png`` on each line."""
    return [name for _, name in entries(path, faults, name_of=_stem)]


def _stem(line: str) -> str:
    """The stem that all paths of a line share; empty when they differ."""
    stems = {PurePosixPath(part).stem if "/" in part else part for part in line.split()}
    return stems.pop() if len(stems) == 1 else ""


def safe(name: str) -> bool:
    """True when ``name`` is a path inside a folder that a file system takes: printable, relative, no ``..``."""
    path = PurePosixPath(name)
    return (
        name.isprintable()
        and not name.startswith((".", "/"))
        and ".." not in path.parts
        and bool(path.parts)
        and all(len(part.encode()) <= 200 for part in path.parts)
        and len(name.encode()) <= 1000
    )
