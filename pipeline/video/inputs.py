"""What the command line names as sources: one run for each, and a name for its results that no other run has."""

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
    """What one run reads.

    Attributes:
        text: as :func:`pipeline.video.sources.open_source` takes it.
        images: files of one sequence, named one by one; then ``text`` is not opened.
        path: the file, where there is one.
        name: for its results; None: as the opened source is called.
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
        """Whether it never ends, as far as its text tells; an http address may be a file on a server."""
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
    """One input for each run over what ``texts`` name, in their order.

    - A folder or a pattern of videos is a run for each video; with images in it, it is one run over the images.
    - Several image files are one run, as a pattern of them is: a shell makes them of a pattern without quotes.
    - All else is a run of its own. A file that is named twice is taken once.
    """
    found: list[Input] = []
    pictures = list(dict.fromkeys(Path(text) for text in texts if len(texts) > 1 and _is_image_file(text)))
    for text in texts:
        listing = _listing(text)
        if listing is not None and listing.videos and not listing.images:
            listing.tell_passed_over(listing.videos)
            found += [Input(str(video), path=video) for video in listing.videos]
        elif len(pictures) > 1 and _is_image_file(text):
            if Path(text) == pictures[0]:
                log.warning(
                    "%d images are taken as one sequence, in the order of the numbers in their names, as a pattern in "
                    "quotes is",
                    len(pictures),
                )
                found.append(Input(f"{text} and {len(pictures) - 1} more", images=tuple(pictures)))
        else:
            found.append(Input(text, path=Path(text) if _exists(text) else None))
    found = _once(found)
    if len(found) > 1:
        found = _named(found)
    return found


def _once(found: Sequence[Input]) -> list[Input]:
    seen: dict[object, Input] = {}
    for given in found:
        key = _whole(given.path) if given.path else given.images or given.text
        if key in seen:
            log.warning("%s: is named twice and read once", given.shown)
        seen.setdefault(key, given)
    return list(seen.values())


def _named(found: Sequence[Input]) -> list[Input]:
    """The same with a name each: the file's stem; where that is not enough also the folders in which files differ, then
    the suffix, then a number."""
    paths = [_whole(given.path) for given in found if given.path is not None]
    common = os.path.commonpath([path.parent for path in paths]) if paths else "."
    wishes = {path: _wishes(path.relative_to(common), path.is_dir()) for path in paths}
    bearers = [Counter(names[rule].casefold() for names in wishes.values()) for rule in range(3)]
    taken: set[str] = set()
    named: list[Input] = []
    for given in found:
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
    """From the root on, without ``..`` and links to folders; a link to a file keeps its own name."""
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def _plain(text: str) -> str:
    """A name for what is no file."""
    if text == STANDARD_INPUT:
        return "stdin"
    return "-".join(re.findall(r"[A-Za-z0-9]+", redacted(text)))[-80:] or "source"


def _listing(text: str) -> Listing | None:
    """What a folder or a pattern without images holds; None for all else, which its reader judges."""
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
    except (OSError, ValueError):  # longer than names may be, or a null byte
        return False
