"""Images, videos and other files of a folder or a pattern."""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import UserError
from pipeline.video.sources._animated import is_animated
from pipeline.video.sources._order import natural_order

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# A list, because FFmpeg also opens files that are no videos: it plays a .txt file as terminal art.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".ts", ".m2ts", ".mts", ".mxf"),
    *(".wmv", ".asf", ".flv", ".3gp", ".ogv", ".gif", ".apng", ".mjpeg", ".mjpg", ".h264", ".264", ".hevc", ".h265"),
    *(".265", ".ivf", ".y4m", ".dv", ".nut"),
)
_NAMED = 3  # files that a warning names; the others are counted


def is_image(path: Path) -> bool:
    """By its suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_video(path: Path) -> bool:
    """By its suffix; animated PNG and WebP by their content."""
    return path.suffix.lower() in VIDEO_SUFFIXES or (is_image(path) and is_animated(path))


@dataclass
class Listing:
    """Paths by kind, each in natural order. Names with a leading dot are ignored: macOS makes ``._frame.png``.

    Attributes:
        given: the folder or the pattern.
        images, videos: files that are read here.
        overlays: overlays that an earlier run wrote, by their names.
        folders: folders inside; they are not searched.
        others: everything else.
    """

    given: str
    images: list[Path] = field(default_factory=list)
    videos: list[Path] = field(default_factory=list)
    overlays: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    def warn_of_skipped(self, taken: Sequence[Path]) -> None:
        """Warn, in one line, of all paths that are not in ``taken``."""
        skipped = []
        if self.images is not taken:
            skipped.append(_counted(self.images, "image", "give them by a pattern"))
        if self.videos is not taken:
            skipped.append(_counted(self.videos, "video", "give them by name or by a pattern, such as '*.mp4'"))
        skipped.append(_counted(self.overlays, "overlay", "written by an earlier run"))
        skipped.append(_counted(self.folders, "folder", "not searched; the pattern '**/*.png' does that"))
        skipped.append(_counted(self.others, "file", "neither image nor video"))
        listed = ", ".join(text for text in skipped if text)
        if listed:
            log.warning("%s: %d of the files are read; skipped: %s", self.given, len(taken), listed)


def _counted(paths: Sequence[Path], kind: str, why: str) -> str:
    """For example ``2 files (neither image nor video: a.txt, b.heic)``; empty for no path."""
    if not paths:
        return ""
    names = ", ".join(path.name for path in paths[:_NAMED])
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return f"{len(paths)} {kind}{'s' if len(paths) > 1 else ''} ({why}: {names}{more})"


def holds_image(entries: Callable[[], Iterable[Path]]) -> bool:
    """Whether there is a still image among paths. It stops at the first one, so it is fast in folders of images.

    Args:
        entries: lists the paths; False if that fails.
    """
    try:
        return any(
            is_image(path)
            and not path.name.startswith(".")
            and not path.stem.endswith("-overlay")
            and ".partial-" not in path.name
            and path.is_file()
            and not is_animated(path)
            for path in entries()
        )
    except OSError:
        return False


def list_folder(folder: Path) -> Listing:
    """The paths of a folder, without those of folders inside. Raises UserError if it cannot be listed."""
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    return by_kind(str(folder), entries, folder.resolve().name)


def list_pattern(pattern: str) -> Listing:
    """The paths that a pattern matches; ``**`` matches any folders."""
    names = glob.glob(pattern, recursive=True)  # noqa: PTH207 - the pattern may be absolute
    return by_kind(pattern, {Path(name) for name in names})


def by_kind(given: str, entries: Iterable[Path], name: str = "") -> Listing:
    """Paths by kind.

    Args:
        given: the folder or the pattern.
        name: of the folder of the results; ``<name>-overlay`` is an overlay too.
    """
    listing = Listing(given)
    paths = sorted((path for path in entries if not path.name.startswith(".")), key=natural_order)
    stems = {(path.parent, path.stem) for path in paths}
    # all files are checked only if the first one is an animation: a folder may hold a hundred thousand files
    first = next((path for path in paths if is_image(path) and path.is_file()), None)
    animated = first is not None and is_animated(first)
    for path in paths:
        original = path.stem.removesuffix("-overlay")
        is_overlay = original != path.stem and ((path.parent, original) in stems or original == name)
        if path.is_dir():
            listing.folders.append(path)
        elif not path.is_file():
            listing.others.append(path)
        elif is_overlay or ".partial-" in path.name:
            listing.overlays.append(path)
        elif path.suffix.lower() in VIDEO_SUFFIXES or (animated and is_animated(path)):
            listing.videos.append(path)
        elif is_image(path):
            listing.images.append(path)
        else:
            listing.others.append(path)
    return listing
