"""Files by patterns with wildcards, named by what the wildcards stand for."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from pipeline.datasets._images import SUFFIXES, is_lossy
from pipeline.errors import Faults

#: Other suffixes of pictures and masks: a file with one is named, and not passed over as a note or a thumbnail is.
PICTURES = (
    ".gif", ".jp2", ".j2k", ".jpx", ".jxl", ".heic", ".heif", ".avif", ".ppm", ".pgm", ".pbm", ".pnm",
    ".tga", ".dng", ".exr", ".hdr", ".npy", ".npz", ".mat",
)  # fmt: skip
SHOWN = 3  # files that a message names


@dataclass(frozen=True)
class Pattern:
    """A pattern as regular expressions with a group for each wildcard.

    Args:
        text: as the user wrote it.
        key: name of the option.
        files: what it matches.
        stems: the same with any suffix.
    """

    text: str
    key: str
    files: re.Pattern[str]
    stems: re.Pattern[str]


@dataclass
class Found:
    """Files of one pattern.

    Args:
        files: by what the wildcards stand for (joined with ``/``), in order.
        passed: image files that match except for their suffix.
        unread: files that match and have a suffix of pictures that are not read.
    """

    files: dict[str, Path] = field(default_factory=dict)
    passed: dict[str, Path] = field(default_factory=dict)
    unread: list[Path] = field(default_factory=list)


def nfc(text: str) -> str:
    """Composed Unicode: the same name is two strings on disks of different systems, and this is one of them."""
    return normalize("NFC", text)


def compiled(text: str, faults: Faults, *, key: str) -> Pattern:
    """A pattern from its text.

    Args:
        text: path below a root; ``*`` is part of a name, ``**`` any folders. The suffix of the last part may have
            any case; without one, any image's is taken.
        faults: gets a line when the text is no pattern.
        key: name of the option, for messages.

    Example:
        >>> compiled("masks/**/*_id.png", Faults("x"), key="masks").files.fullmatch("masks/a/b/7_id.PNG").groups()
        ('a/b/', '7')
    """
    *folders, last = nfc(text).replace("\\", "/").split("/")
    if "*" not in last or "**" in last or folders[:1] == [""] or ".." in folders:
        faults.add(f"{key}: got {text!r}; allowed: a path below the root with a * in its last part: images/*.jpg")
        return Pattern(text, key, re.compile(""), re.compile(""))
    place = "".join(r"((?:[^/]+/)*)" if part == "**" else f"{_part(part)}/" for part in folders if part != ".")
    stem, dot, suffix = last.rpartition(".")
    if not dot or "*" in suffix:
        any_suffix = re.compile(place + _part(last) + r"\.[^./]+")
        return Pattern(text, key, any_suffix, any_suffix)
    return Pattern(
        text,
        key,
        re.compile(place + f"{_part(stem)}(?i:{re.escape(dot + suffix)})"),
        re.compile(place + _part(stem) + r"\.[^./]+"),
    )


def _part(part: str) -> str:
    return "".join("([^/]*)" if piece == "*" else re.escape(piece) for piece in re.split(r"(\*)", part))


def find(root: Path, pattern: Pattern, wrong: list[str], *, suffixes: Collection[str] = SUFFIXES) -> Found:
    """Files that match a pattern. Names are composed Unicode, whatever the disk has.

    Hidden files and folders are passed over; links to folders are followed, each folder once.

    Args:
        wrong: gets a line for each file that stands for the same as another, and one for suffixes that are not read.
    """
    found = Found()
    seen: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        below[:] = [] if place in seen else sorted(name for name in below if not name.startswith("."))
        for file in [] if place in seen else sorted(files):
            path = Path(folder) / file
            below_root = nfc(path.relative_to(root).as_posix())
            if file.startswith(".") or (match := pattern.stems.fullmatch(below_root)) is None:
                continue
            name = "/".join(part.strip("/") for part in match.groups() if part.strip("/"))
            if path.suffix.lower() not in suffixes:
                if pattern.files.fullmatch(below_root) and path.suffix.lower() in PICTURES:
                    found.unread.append(path)
            elif pattern.files.fullmatch(below_root) is None:
                found.passed.setdefault(name, path)
            else:
                if name in found.files:
                    wrong.append(f"{path}: the same sample as {found.files[name]}; remove one, or narrow the pattern")
                found.files.setdefault(name, path)
        seen.add(place)
    found.files = dict(sorted(found.files.items()))
    if found.unread:
        wrong.append(_unread(pattern, found))
    return found


def _unread(pattern: Pattern, found: Found) -> str:
    """The line about files whose suffix is not read."""
    kinds = ", ".join(sorted({path.suffix for path in found.unread}))
    read = sorted({path.suffix for path in found.files.values()})
    narrower = (
        f", or set {pattern.key}: {_with_suffix(pattern.text, read[0])} to leave them out" if len(read) == 1 else ""
    )
    return (
        f"{pattern.key}: {some(found.unread)} of {pattern.text!r}: {kinds} is not read; allowed: "
        f"{', '.join(SUFFIXES)}; convert them to .png{narrower}"
    )


def other_suffix(pattern: Pattern, passed: list[Path], *, lossless: bool = False) -> str:
    """The line about files that a pattern misses by their suffix alone, with the pattern that takes them.

    Args:
        lossless: those that are compressed with loss would be refused; the line says so instead.
    """
    if lossless and all(is_lossy(path) for path in passed):
        return (
            f"{pattern.key}: {some(passed)} are compressed with loss, which alters ids; make the masks again from "
            "their source, as 8-bit grey PNG of class ids"
        )
    suffixes = {path.suffix for path in passed}
    wider = _with_suffix(pattern.text, min(suffixes) if len({each.lower() for each in suffixes}) == 1 else "")
    return f"{pattern.key}: {some(passed)} match {pattern.text!r} except for their suffix; set {pattern.key}: {wider}"


def other_names(patterns: Sequence[Pattern], images: Mapping[str, Path], masks: Mapping[str, Path]) -> str | None:
    """The line about images and masks of which none pair, with the patterns that pair them.

    These are known where only constant parts keep the names apart: ``a`` and ``a_mask``.
    """
    ours, theirs = ([*each] for each in (images.keys() - masks.keys(), masks.keys() - images.keys()))
    if not ours or not theirs or images.keys() & masks.keys():
        return None
    ends = [_constant([name.rpartition("/")[2] for name in names]) for names in (ours, theirs)]
    (head, tail), (mask_head, mask_tail) = ends
    if head == mask_head:
        head = mask_head = ""
    if tail == mask_tail:
        tail = mask_tail = ""
    stripped = [
        {_without(name, *both) for name in names}
        for names, both in ((ours, (head, tail)), (theirs, (mask_head, mask_tail)))
    ]
    if stripped[0] != stripped[1]:
        example = f"images stand for names such as {min(ours)!r}, those of masks for {min(theirs)!r}"
        return f"images and masks: the wildcards of {example}; change the patterns, or pair them in lists"
    wanted = [_around(patterns[0].text, head, tail), _around(patterns[1].text, mask_head, mask_tail)]
    changed = [f"{p.key}: {text!r}" for p, text in zip(patterns, wanted, strict=True) if text != p.text]
    return f"images and masks: names differ by a constant part; set {' and '.join(changed)}"


def _constant(names: Sequence[str]) -> tuple[str, str]:
    """What all names begin and end with, digits at the inner ends left out."""
    if len(names) == 1:
        return "", ""
    head = _start(names).rstrip("0123456789")
    return head, _start([name[len(head) :][::-1] for name in names]).rstrip("0123456789")[::-1]


def _start(names: Sequence[str]) -> str:
    first, last = min(names), max(names)  # what these two share, all between them share
    return first[: next((i for i, letter in enumerate(first) if last[i : i + 1] != letter), len(first))]


def _without(name: str, head: str, tail: str) -> str:
    folders, slash, last = name.rpartition("/")
    return folders + slash + last.removeprefix(head).removesuffix(tail)


def _around(text: str, head: str, tail: str) -> str:
    before, _, after = text.rpartition("*")
    return f"{before}{head}*{tail}{after}"


def _with_suffix(text: str, suffix: str) -> str:
    folders, slash, last = text.rpartition("/")
    stem, dot, old = last.rpartition(".")
    return folders + slash + (stem if dot and "*" not in old else last) + suffix


def some(paths: list[Path]) -> str:
    """How many files, and the first of them."""
    shown = ", ".join(map(str, paths[:SHOWN])) + (", ..." if len(paths) > SHOWN else "")
    return f"{len(paths)} files ({shown})" if len(paths) > 1 else f"1 file ({shown})"
