"""Find files by patterns with wildcards. The name of a sample is the text that the wildcards match."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from pipeline.datasets._images import SUFFIXES, is_lossy
from pipeline.datasets._walk import walk
from pipeline.errors import Problems

#: Suffixes of images and masks that are not read: such files are reported, other files are skipped.
PICTURES = (
    ".gif", ".jp2", ".j2k", ".jpx", ".jxl", ".heic", ".heif", ".avif", ".ppm", ".pgm", ".pbm", ".pnm",
    ".tga", ".dng", ".exr", ".hdr", ".npy", ".npz", ".mat",
)  # fmt: skip
SHOWN = 3  # files that a message names


@dataclass(frozen=True)
class Pattern:
    """A pattern as regular expressions, with a group for each wildcard.

    Args:
        text: the pattern as the user wrote it.
        key: name of the option.
        files: expression for the files of the pattern.
        stems: the same expression for files with any suffix.
    """

    text: str
    key: str
    files: re.Pattern[str]
    stems: re.Pattern[str]


@dataclass
class Matches:
    """Files of one pattern.

    Args:
        files: name of the sample (the texts of the wildcards, joined with ``/``) -> file, sorted by name.
        other_suffixes: the same for image files that match the pattern except for their suffix.
        unread: files that match the pattern and have one of the suffixes ``PICTURES``.
    """

    files: dict[str, Path] = field(default_factory=dict)
    other_suffixes: dict[str, Path] = field(default_factory=dict)
    unread: list[Path] = field(default_factory=list)


def nfc(text: str) -> str:
    """Composed Unicode (NFC). Systems store the same name in different forms; segpress always uses this one."""
    return normalize("NFC", text)


def compiled(text: str, problems: Problems, *, key: str) -> Pattern:
    """Compile a pattern.

    Args:
        text: path below a root; ``*`` matches part of a name, ``**`` any folders. The case of the suffix does not
            matter; a pattern without suffix matches all image files.
        problems: gets an error if the text is not a pattern.
        key: name of the option, for messages.

    Example:
        >>> compiled("masks/**/*_id.png", Problems("x"), key="masks").files.fullmatch("masks/a/b/7_id.PNG").groups()
        ('a/b/', '7')
    """
    *folders, last = nfc(text).replace("\\", "/").split("/")
    if "*" not in last or "**" in last or folders[:1] == [""] or ".." in folders:
        problems.add(f"{key}: got {text!r}; allowed: a path below the root with a * in its last part: images/*.jpg")
        return Pattern(text, key, re.compile(""), re.compile(""))
    folder_part = "".join(r"((?:[^/]+/)*)" if part == "**" else f"{_part(part)}/" for part in folders if part != ".")
    stem, dot, suffix = last.rpartition(".")
    if not dot or "*" in suffix:
        any_suffix = re.compile(folder_part + _part(last) + r"\.[^./]+")
        return Pattern(text, key, any_suffix, any_suffix)
    return Pattern(
        text,
        key,
        re.compile(folder_part + f"{_part(stem)}(?i:{re.escape(dot + suffix)})"),
        re.compile(folder_part + _part(stem) + r"\.[^./]+"),
    )


def _part(part: str) -> str:
    return "".join("([^/]*)" if piece == "*" else re.escape(piece) for piece in re.split(r"(\*)", part))


def find(root: Path, pattern: Pattern, wrong: list[str], *, suffixes: Collection[str] = SUFFIXES) -> Matches:
    """Files that match a pattern. Names are in composed Unicode.

    Folders are read as :func:`pipeline.datasets._walk.walk` does.

    Args:
        wrong: gets an error for each file with the name of another file, and one for files with unread suffixes.
        suffixes: suffixes of the files to find, in lower case.
    """
    matches = Matches()
    for folder, files in walk(root):
        for path in map(folder.joinpath, files):
            relative = nfc(path.relative_to(root).as_posix())
            if (match := pattern.stems.fullmatch(relative)) is None:
                continue
            name = "/".join(part.strip("/") for part in match.groups() if part.strip("/"))
            if path.suffix.lower() not in suffixes:
                if pattern.files.fullmatch(relative) and path.suffix.lower() in PICTURES:
                    matches.unread.append(path)
            elif pattern.files.fullmatch(relative) is None:
                matches.other_suffixes.setdefault(name, path)
            else:
                if name in matches.files:
                    wrong.append(f"{path}: the same sample as {matches.files[name]}; remove one, or narrow the pattern")
                matches.files.setdefault(name, path)
    matches.files = dict(sorted(matches.files.items()))
    if matches.unread:
        wrong.append(_unread(pattern, matches))
    return matches


def _unread(pattern: Pattern, matches: Matches) -> str:
    """The error about files whose suffix segpress does not read."""
    kinds = ", ".join(sorted({path.suffix for path in matches.unread}))
    suffixes = sorted({path.suffix for path in matches.files.values()})
    advice = (
        f", or set {pattern.key}: {_with_suffix(pattern.text, suffixes[0])} to leave them out"
        if len(suffixes) == 1
        else ""
    )
    return (
        f"{pattern.key}: {some(matches.unread)} of {pattern.text!r}: {kinds} is not read; allowed: "
        f"{', '.join(SUFFIXES)}; convert them to .png{advice}"
    )


def other_suffix(pattern: Pattern, files: list[Path], *, lossless: bool = False) -> str:
    """The error about files that match a pattern except for their suffix, with a pattern that matches them.

    Args:
        lossless: the files must be lossless; for lossy files the error says this instead.
    """
    if lossless and all(is_lossy(path) for path in files):
        return (
            f"{pattern.key}: {some(files)}: lossy compression, which changes ids; create the masks again from their "
            "source, as 8-bit grey PNG of class ids"
        )
    suffixes = {path.suffix for path in files}
    wider = _with_suffix(pattern.text, min(suffixes) if len({each.lower() for each in suffixes}) == 1 else "")
    return f"{pattern.key}: {some(files)} match {pattern.text!r} except for their suffix; set {pattern.key}: {wider}"


def other_names(patterns: Sequence[Pattern], images: Mapping[str, Path], masks: Mapping[str, Path]) -> str | None:
    """The error about images and masks that form no pair; None: some form pairs, or one kind has no files.

    If the names differ only by a constant part (``a`` and ``a_mask``), the error gives the patterns that pair them.
    """
    image_names, mask_names = ([*each] for each in (images.keys() - masks.keys(), masks.keys() - images.keys()))
    if not image_names or not mask_names or images.keys() & masks.keys():
        return None
    ends = [_constant([name.rpartition("/")[2] for name in names]) for names in (image_names, mask_names)]
    (head, tail), (mask_head, mask_tail) = ends
    if head == mask_head:
        head = mask_head = ""
    if tail == mask_tail:
        tail = mask_tail = ""
    stripped = [
        {_without(name, *both) for name in names}
        for names, both in ((image_names, (head, tail)), (mask_names, (mask_head, mask_tail)))
    ]
    if stripped[0] != stripped[1]:
        example = f"images match {min(image_names)!r}, those of masks match {min(mask_names)!r}"
        return f"images and masks: the wildcards of {example}; change the patterns, or pair the files in lists"
    wanted = [_around(patterns[0].text, head, tail), _around(patterns[1].text, mask_head, mask_tail)]
    changed = [f"{p.key}: {text!r}" for p, text in zip(patterns, wanted, strict=True) if text != p.text]
    return f"images and masks: names differ by a constant part; set {' and '.join(changed)}"


def _constant(names: Sequence[str]) -> tuple[str, str]:
    """The common start and the common end of all names, without the digits next to the variable part."""
    if len(names) == 1:
        return "", ""
    head = _start(names).rstrip("0123456789")
    return head, _start([name[len(head) :][::-1] for name in names]).rstrip("0123456789")[::-1]


def _start(names: Sequence[str]) -> str:
    first, last = min(names), max(names)  # a common start of these two is a common start of all names
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
    """Number of files, and the first of them, for messages."""
    shown = ", ".join(map(str, paths[:SHOWN])) + (", ..." if len(paths) > SHOWN else "")
    return f"{len(paths)} files ({shown})" if len(paths) > 1 else f"1 file ({shown})"
