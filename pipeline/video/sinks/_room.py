"""Checks of the room on the disk for a video: before the work, and before its index is moved to the front."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

#: Overlays of street scenes take 0.3 (960x540) to 1.1 (480x360, noisy) bits per pixel with libx264 ultrafast, crf 20
#: (solidWhiteRight and CamVid 0016E5); a low value is used, because a false warning is worse than no warning.
_BITS_PER_PIXEL = 0.3
_SPARE = 1 << 20  # bytes


def warn_of_little_room(path: Path, *, frames: int, size: tuple[int, int]) -> None:
    """Warn if the disk of ``path`` probably has too little room for two videos of ``frames`` frames of ``size``
    (height, width): the finished video is written a second time, with its index at the front."""
    needed = round(2 * frames * size[0] * size[1] * _BITS_PER_PIXEL / 8)
    free = _free(path)
    if free is not None and free < needed:
        log.warning(
            "%s: about %d MB are needed for %d frames, %d MB are free there; free some, or name another place: --out",
            *(path, needed >> 20, frames, free >> 20),
        )


def has_room_for_copy(place: Path, *, path: Path, sound: bool) -> bool:
    """Whether a second copy of the file at ``place`` fits on its disk; if not, FFmpeg's writer would crash. True if the
    free room is unknown. If False, a warning names what the first copy, which becomes ``path``, lacks.

    Args:
        sound: whether the second copy would have had sound.
    """
    free = _free(place)
    if free is None or free > place.stat().st_size + _SPARE:
        return True
    log.warning(
        "%s: no room to write it once more with its index in front%s: it stays in fragments, which players and "
        "browsers play, too",
        *(path, " and its sound" if sound else ""),
    )
    return False


def _free(path: Path) -> int | None:
    """Free bytes on the disk of ``path``; None if unknown."""
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return None
