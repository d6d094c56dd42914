"""Sound and pixel shape: what is copied from a source to its outputs. Each loss has one warning."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.errors import UserError
from pipeline.video.drawing.picture import SQUARE
from pipeline.video.sound import Sound
from pipeline.video.sources import Source

log = logging.getLogger(__name__)


def check_sound(source: Source, out: Path | None, *, wanted: bool, fps: float | None) -> None:
    """Raise UserError if sound is wanted and cannot be copied: there is no overlay video, the source is not a file, or
    ``fps`` changes the times of its pictures."""
    if not wanted:
        return
    if fps is not None and source.is_video:
        raise UserError("--audio: --fps changes the speed of the pictures but not of the sound; leave one of them out")
    if out is None or out.suffix.lower() != ".mp4":
        raise UserError("--audio copies sound into an overlay video; name one with --out NAME.mp4, or leave it out")
    if not source.is_video or source.live:
        what = "is live, and sound is copied from files only" if source.live else "images have no sound"
        raise UserError(f"{source.name}: {what}; leave --audio out")


def sound_for(source: Source, out: Path, *, wanted: bool) -> Sound | None:
    """The sound that is copied into an overlay video; None if there is none. Warns of sound that is not copied."""
    if not wanted:
        if source.sound is not None:
            log.warning("%s: its sound is not carried over to %s; --audio copies it", source.name, out)
        return None
    if source.sound is None:
        log.warning("%s: has no sound that can be copied; %s is silent", source.name, out)
    elif source.sound.others:
        log.warning(
            "%s: holds %d audio streams; stream %d is copied, the one that players choose",
            *(source.name, source.sound.others + 1, source.sound.number),
        )
    return source.sound


def warn_of_dropped_sound(source: Source) -> None:
    """Warn that a stream or a playlist does not get the sound of its source."""
    if source.sound is not None:
        log.warning("%s: its sound is not carried over to a stream; --audio copies it into an .mp4 file", source.name)


def warn_of_pixel_shape(source: Source, *places: Path | None) -> None:
    """Warn if pixels are not square and the files of results cannot store the shape of pixels.

    Args:
        places: files and folders of pictures; None: this one is not written.
    """
    plain = [str(path) for path in places if path is not None and path.suffix.lower() not in (".mp4", ".m3u8")]
    if source.aspect != SQUARE and plain:
        shape = f"{source.aspect.numerator}:{source.aspect.denominator}"
        log.warning(
            "%s: its pixels are %s (width:height), which image files cannot store: those in %s keep its rows and "
            "columns and look too %s",
            *(source.name, shape, " and ".join(plain), "narrow" if source.aspect > 1 else "wide"),
        )
