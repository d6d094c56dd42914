"""Sources on the command line: one run per source, and a unique name for the results of each run."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.video.names import STEM, shortened
from pipeline.video.sources import Source, open_source
from pipeline.video.sources._address import redacted
from pipeline.video.sources._listing import Listing, holds_image, is_image, is_video, list_folder, list_pattern
from pipeline.video.sources.pipe import STANDARD_INPUT

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Input:
    """The source of one run.

    Attributes:
        text: argument of :func:`pipeline.video.sources.open_source`.
        images: files of one sequence that the user named one by one; then ``text`` is not opened.
        path: the file; None if the source is not a file.
        name: for its results; None: the name of the opened source.
    """

    text: str
    images: tuple[Path, ...] = ()
    path: Path | None = None
    name: str | None = None

    @property
    def shown(self) -> str:
        """The text as messages show it, without a password."""
        return self.text if self.path is not None else redacted(self.text)

    @property
    def is_live(self) -> bool:
        """Whether it never ends, judged by its text. False for http addresses, which may be files on a server."""
        if self.images:
            return False
        if self.path is not None:
            return self.path.is_char_device()
        scheme = self.text.partition("://")[0].lower() if "://" in self.text else ""
        is_camera = " ! " in self.text or re.fullmatch(r"[0-9]{1,4}|/dev/video\d+", self.text)
        return bool(is_camera or (scheme and scheme not in ("http", "https")))

    def open(self, **options: Any) -> Source:
        """See :func:`pipeline.video.sources.open_source`."""
        return open_source(self.text, listed=self.images, **options)


def inputs_of(texts: Sequence[str]) -> list[Input]:
    """One input per run, in the order of ``texts``.

    - A folder or a pattern of videos gives one run per video. If it also has images, it is one run over the images.
    - Several image files are one run, like a pattern: a shell expands a pattern without quotes to them.
    - Everything else is a separate run. A file that is named twice is read once.
    """
    inputs: list[Input] = []
    pictures = list(dict.fromkeys(Path(text) for text in texts if len(texts) > 1 and _is_image_file(text)))
    for text in texts:
        listing = _listing(text)
        if listing is not None and listing.videos and not listing.images:
            listing.warn_of_skipped(listing.videos)
            inputs += [Input(str(video), path=video) for video in listing.videos]
        elif len(pictures) > 1 and _is_image_file(text):
            if Path(text) == pictures[0]:
                log.warning(
                    "%d images are read as one sequence, in the order of the numbers in their names, like a pattern in "
                    "quotes",
                    len(pictures),
                )
                inputs.append(Input(f"{text} and {len(pictures) - 1} more", images=tuple(pictures)))
        else:
            inputs.append(Input(text, path=Path(text) if _exists(text) else None))
    inputs = _once(inputs)
    if len(inputs) > 1:
        inputs = _named(inputs)
    return inputs


def _once(inputs: Sequence[Input]) -> list[Input]:
    seen: dict[object, Input] = {}
    for given in inputs:
        key = _whole(given.path) if given.path else given.images or given.text
        if key in seen:
            log.warning("%s: is named twice and read once", given.shown)
        seen.setdefault(key, given)
    return list(seen.values())


def _named(inputs: Sequence[Input]) -> list[Input]:
    """The inputs with unique names: the stem of the file; if stems are equal also the folders in which files differ,
    then the suffix, then a number."""
    paths = [_whole(given.path) for given in inputs if given.path is not None]
    common = os.path.commonpath([path.parent for path in paths]) if paths else "."
    wishes = {path: _wishes(path.relative_to(common), path.is_dir()) for path in paths}
    bearers = [Counter(names[rule].casefold() for names in wishes.values()) for rule in range(3)]
    taken: set[str] = set()
    named: list[Input] = []
    for given in inputs:
        if given.path is not None:
            names = wishes[_whole(given.path)]
            alone = [name for name, count in zip(names, bearers, strict=True) if count[name.casefold()] == 1]
            wish = alone[0] if alone else names[-1]
        else:
            wish = _whole(given.images[0]).parent.name or "images" if given.images else _plain(given.text)
        wish = shortened(wish, STEM)
        name, number = wish, 1
        while name.casefold() in taken:
            number += 1
            name = f"{wish}-{number}"
        taken.add(name.casefold())
        named.append(replace(given, name=name))
    return named


def _wishes(path: Path, is_folder: bool) -> tuple[str, str, str]:
    """Names for a file or a folder, each longer than the one before."""
    stem, suffix = (path.name, "") if is_folder else (path.stem, path.suffix)
    whole = "-".join((*path.parts[:-1], stem))
    return stem or "source", whole or "source", f"{whole}-{suffix[1:]}"


def _whole(path: Path) -> Path:
    """The absolute path without ``..`` and links to folders; a link to a file keeps its own name."""
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def _plain(text: str) -> str:
    """A name for a source that is not a file."""
    if text == STANDARD_INPUT:
        return "stdin"
    return "-".join(re.findall(r"[A-Za-z0-9]+", redacted(text)))[-80:] or "source"


def _listing(text: str) -> Listing | None:
    """The content of a folder or a pattern without images; None for any other text, which its reader checks."""
    if _exists(text):
        path = Path(text)
        if not path.is_dir() or not os.access(path, os.R_OK | os.X_OK) or holds_image(path.iterdir):
            return None
        return list_folder(path)
    if "://" in text or " ! " in text or not glob.has_magic(text):
        return None
    matches = map(Path, glob.iglob(text, recursive=True))  # noqa: PTH207 - the pattern may be absolute
    return None if holds_image(lambda: matches) else list_pattern(text)


def _is_image_file(text: str) -> bool:
    return _exists(text) and Path(text).is_file() and is_image(Path(text)) and not is_video(Path(text))


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # a name that is too long, or has a null byte
        return False
