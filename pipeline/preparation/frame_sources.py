"""The files that ``distill.unlabelled.sources`` names: images and videos without labels.

A source is a folder (with all folders inside), an image, a video, or a pattern as in the data set ``folder``: ``*`` is
part of a name and ``**`` any folders. Files are found as those of labelled data sets, with the same errors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.datasets._images import SUFFIXES
from pipeline.datasets._lists import safe
from pipeline.datasets._patterns import compiled, find, nfc, other_suffix, some
from pipeline.errors import Problems
from pipeline.video.sources._listing import VIDEO_SUFFIXES, by_kind, is_video

KEY = "distill.unlabelled.sources"
ALLOWED = "allowed: a folder, an image, a video file, or a pattern in quotes, such as 'drives/**/left/*.png'"
EVERYTHING = "**/*"


@dataclass
class Files:
    """The files of all sources.

    Attributes:
        images, videos: name -> file. A name is the last part of the source's path, then the path inside it. The name
            of an image has no suffix. The name of a video has its suffix, because a folder beside the video may have
            the same name and its frames as images.
        missing: an error for each source without files.
        problems: all other errors.
        warnings: files that are left out.
    """

    images: dict[str, Path] = field(default_factory=dict)
    videos: dict[str, Path] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def names(self) -> dict[Path, str]:
        """File -> name, of all files. An image and a video may share a name: ``clip.mp4.jpg`` beside ``clip.mp4``."""
        return {file: name for found in (self.images, self.videos) for name, file in found.items()}


def find_files(sources: Sequence[str]) -> Files:
    """Find the files of all sources, in the order of the sources, each sorted by name."""
    files = Files()
    titles: set[str] = set()
    used: set[str] = set()
    for source in sources:
        before = len(files.problems)
        named = _matches(source, files)
        if not named and len(files.problems) == before:
            files.missing.append(_nothing(source, files))
        title = _title(source, titles)
        listing = by_kind(source, named.values())
        real = {file: os.path.realpath(file) for file in named.values()}
        again = [file for file, path in real.items() if path in used]
        used.update(real.values())
        for what, paths in (("overlays of an earlier run", listing.overlays), ("files of other sources", again)):
            if paths:
                files.warnings.append(f"{source}: {what} are left out: {some(paths)}")
        videos, left_out = set(listing.videos), {*listing.overlays, *again}
        for name, file in named.items():
            whole = "/".join(filter(None, (title, name))) + (file.suffix if file in videos else "")
            if not safe(whole):
                files.problems.append(f"{file}: not a file name; allowed: printable and not too long; rename it")
            elif file not in left_out:
                (files.videos if file in videos else files.images)[whole] = file
    return files


def _matches(source: str, files: Files) -> dict[str, Path]:
    """The files of a source by their names inside it; the name of a single file is ``""``."""
    root, pattern = _parts(source)
    if pattern is None:
        return {"": root} if is_video(root) or root.suffix.lower() in SUFFIXES else {}
    problems = Problems(source)
    expression = compiled(pattern, problems, key=KEY)
    if problems.messages:
        files.problems += problems.messages
        return {}
    expression = replace(expression, text=source if "*" in source else f"{source}/{pattern}")  # for messages
    matches = find(root, expression, files.problems, suffixes=(*SUFFIXES, *VIDEO_SUFFIXES))
    if not matches.files and matches.other_suffixes:
        files.problems.append(other_suffix(expression, list(matches.other_suffixes.values())))
    return matches.files


def _parts(source: str) -> tuple[Path, str | None]:
    """The folder of a source and its pattern below it; a file has no pattern."""
    path = Path(source)
    if _exists(path):
        return path, EVERYTHING if path.is_dir() else None
    parts = path.parts
    first = next((number for number, part in enumerate(parts) if "*" in part), None)
    return (path, None) if first is None else (Path(*parts[:first]), "/".join(parts[first:]))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or has a null byte
        return False


def _nothing(source: str, files: Files) -> str:
    root, pattern = _parts(source)
    if pattern == EVERYTHING:
        return f"{KEY}: {source}: no image or video in this folder or below it; {ALLOWED}"
    if pattern is not None:
        where = "matches no image or video" if _exists(root) else f"{root}: no such folder"
        return f"{KEY}: {source}: {where}; {ALLOWED}"
    if _exists(root):
        return f"{KEY}: {source}: '{root.suffix or root.name}' is neither an image nor a video that is read; {ALLOWED}"
    return f"{KEY}: {source}: no such file or folder; {ALLOWED}"


def _title(source: str, used: set[str]) -> str:
    """First part of the names of a source's files: the last part of its path, with a number if it is ``used``."""
    root, pattern = _parts(source)
    stem = nfc(root.name if pattern is not None else root.stem)
    title = base = stem.lstrip(".") or "frames"  # no hidden names, and not ".."
    number = 1
    while title in used:
        number += 1
        title = f"{base}-{number}"
    used.add(title)
    return title
