"""List files that name the samples of a split, one a line; every broken line is a fault of its own."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from pipeline.datasets._images import SUFFIXES

#: Words of which the columns of a header are made: ``image_path``, ``Mask``, ``file name``.
HEADER = re.compile(
    "annotations?|file(names?|s)?|fname|frames?|gt|id|image(name|s)?|imgs?|index|labels?|lbl|masks?|names?|paths?|samples?"
    "|seg|segmentation|split|subset|target"
)
DELIMITERS = ("\t", ",", ";")


def lines(
    path: Path, faults: list[str], *, is_name: Callable[[str], bool] = lambda line: False
) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is neither empty nor a comment (``# ...``), in composed Unicode.

    UTF-8, with or without a byte order mark, or UTF-16 with one. An unreadable file is added to ``faults`` and has no
    line.

    Args:
        is_name: whether a line with ``#`` at its start names a file that is there.
    """
    try:
        data = path.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except FileNotFoundError:
        faults.append(f"{path.name}: missing; it belongs into {path.parent}")
        return
    except UnicodeDecodeError as error:
        faults.append(f"{path.name}: not a text file in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8")
        return
    except (OSError, ValueError) as error:  # ValueError: a zero byte in its name
        faults.append(f"{path.name}: cannot be read ({getattr(error, 'strerror', error)})")
        return
    for number, line in enumerate(text.splitlines(), start=1):
        kept = normalize("NFC", line.strip())
        if kept and (not kept.startswith("#") or is_name(kept)):
            yield number, kept


def columns(line: str) -> Iterator[list[str]]:
    """Ways to take a line apart, the likeliest first: as a whole, by tab, comma and semicolon, and by spaces."""
    yield [_unquoted(line)]
    for delimiter in DELIMITERS:
        if delimiter in line:
            try:
                fields = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
            except csv.Error:  # a zero byte, or a field that is too long
                fields = line.split(delimiter)
            while fields and not fields[-1].strip():
                del fields[-1]
            yield [_unquoted(field) for field in fields]
    yield ["".join(parts) for parts in re.findall(r"\"([^\"]+)\"|'([^']+)'|(\S+)", line)]
    for gap in re.finditer(r"\s+", line):  # names with spaces: every place where the second may begin
        yield [_unquoted(line[: gap.start()]), _unquoted(line[gap.end() :])]


def is_header(line: str) -> bool:
    """True for the names of columns: ``image,mask``."""
    fields = re.split(r"[\t,;]", line)
    words = [[word for word in re.split(r"[\W_]+", field.casefold()) if word] for field in fields]
    return any(words) and all(HEADER.fullmatch(word) for found in words for word in found)


def posix(reference: str) -> str:
    """A path with ``/`` as separator and without ``.``, doubled separators and quotes."""
    text = re.sub(r"^[A-Za-z]:(?=[\\/])", "", _unquoted(reference)).replace("\\", "/")
    parts: list[str] = []
    for part in text.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return ("/" if text.startswith("/") else "") + "/".join(parts)


def _unquoted(text: str) -> str:
    kept = text.strip()
    return kept[1:-1].strip() if len(kept) > 2 and kept[0] == kept[-1] and kept[0] in "\"'" else kept


def names(path: Path, faults: list[str]) -> list[str]:
    """Sample names of a list that has ``name``, a file of it, or ``/images/name.jpg /masks/name.png`` on each line.

    Bad and repeated lines are faults and left out.
    """
    found: dict[str, int] = {}
    before = len(faults)
    for number, line in lines(path, faults):
        if not found and is_header(line):
            continue
        if not safe(name := _stem(line)):
            faults.append(f"{path.name}:{number}: not the name of one sample: {line!r}; correct the line")
        elif name in found:
            faults.append(f"{path.name}:{number}: {name} is listed twice, first in line {found[name]}; remove one")
        else:
            found[name] = number
    if not found and len(faults) == before:
        faults.append(f"{path.name}: lists no sample")
    return list(found)


def _stem(line: str) -> str:
    """The stem that all paths of a line share; empty when they differ."""
    stems = set()
    for part in filter(None, re.split(r"[\s,;]+", line)):
        path = PurePosixPath(posix(part))
        stems.add(path.stem if path.suffix.lower() in SUFFIXES else path.name)
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
