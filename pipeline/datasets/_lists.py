"""List files that name the samples of a split, one per line; each invalid line is reported as one error."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from pipeline.datasets._images import SUFFIXES

#: Words that may occur in a column title of a header: ``image_path``, ``Mask``, ``file name``.
HEADER = re.compile(
    "annotations?|file(names?|s)?|fname|frames?|gt|id|image(name|s)?|imgs?|index|labels?|lbl|masks?|names?|paths?|samples?"
    "|seg|segmentation|split|subset|target"
)
DELIMITERS = ("\t", ",", ";")


def lines(
    path: Path, problems: list[str], *, is_name: Callable[[str], bool] = lambda line: False
) -> Iterator[tuple[int, str]]:
    """Number and text of each line, in composed Unicode, without empty lines and comments (``# ...``).

    The file is UTF-8, with or without a byte order mark, or UTF-16 with one. If it cannot be read, there are no lines,
    and ``problems`` gets an error.

    Args:
        is_name: whether a line that begins with ``#`` is the name of an existing file, not a comment.
    """
    try:
        data = path.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except FileNotFoundError:
        problems.append(f"{path.name}: no such file in {path.parent}; restore it")
        return
    except UnicodeDecodeError as error:
        problems.append(f"{path.name}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8")
        return
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        problems.append(f"{path.name}: cannot be read ({getattr(error, 'strerror', error)})")
        return
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = normalize("NFC", line.strip())
        if stripped and (not stripped.startswith("#") or is_name(stripped)):
            yield number, stripped


def columns(line: str) -> Iterator[list[str]]:
    """Ways to split a line into columns, the most likely first: not at all, by tab, comma, semicolon, or spaces."""
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
    for gap in re.finditer(r"\s+", line):  # names with spaces: every position where the second name may begin
        yield [_unquoted(line[: gap.start()]), _unquoted(line[gap.end() :])]


def is_header(line: str) -> bool:
    """Whether a line consists of column titles: ``image,mask``."""
    fields = re.split(r"[\t,;]", line)
    words = [[word for word in re.split(r"[\W_]+", field.casefold()) if word] for field in fields]
    return any(words) and all(HEADER.fullmatch(word) for title in words for word in title)


def posix(reference: str) -> str:
    """A path with ``/`` as separator, without quotes, drive letter, ``.`` and repeated separators."""
    text = re.sub(r"^[A-Za-z]:(?=[\\/])", "", _unquoted(reference)).replace("\\", "/")
    parts: list[str] = []
    for part in text.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return ("/" if text.startswith("/") else "") + "/".join(parts)


def _unquoted(text: str) -> str:
    stripped = text.strip()
    return (
        stripped[1:-1].strip()
        if len(stripped) > 2 and stripped[0] == stripped[-1] and stripped[0] in "\"'"
        else stripped
    )


def names(path: Path, problems: list[str]) -> list[str]:
    """Sample names of a list file. A line is ``name``, a file name, or ``/images/name.jpg /masks/name.png``.

    Invalid and repeated lines are left out, and ``problems`` gets an error for each.
    """
    first_line: dict[str, int] = {}
    count = len(problems)
    for number, line in lines(path, problems):
        if not first_line and is_header(line):
            continue
        if not safe(name := _stem(line)):
            problems.append(f"{path.name}:{number}: not the name of one sample: {line!r}; correct the line")
        elif name in first_line:
            first = first_line[name]
            problems.append(f"{path.name}:{number}: {name} is listed twice, first in line {first}; remove one line")
        else:
            first_line[name] = number
    if not first_line and len(problems) == count:
        problems.append(f"{path.name}: lists no sample; add one name per line")
    return list(first_line)


def _stem(line: str) -> str:
    """The common stem of all paths in a line; empty if the stems differ."""
    stems = set()
    for part in filter(None, re.split(r"[\s,;]+", line)):
        path = PurePosixPath(posix(part))
        stems.add(path.stem if path.suffix.lower() in SUFFIXES else path.name)
    return stems.pop() if len(stems) == 1 else ""


def safe(name: str) -> bool:
    """Whether ``name`` is a valid path inside a folder: printable, relative, without ``..``, and not too long."""
    path = PurePosixPath(name)
    return (
        name.isprintable()
        and not name.startswith((".", "/"))
        and ".." not in path.parts
        and bool(path.parts)
        and all(len(part.encode()) <= 200 for part in path.parts)
        and len(name.encode()) <= 1000
    )
