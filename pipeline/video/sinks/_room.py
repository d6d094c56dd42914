"""Room on the disk for a video: told before the work, and looked at again before its index is moved to the front."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

#: Overlays of street scenes take 0.3 (960x540) to 1.1 (480x360, noisy) bits a pixel with libx264 ultrafast, crf 20
#: (solidWhiteRight and CamVid 0016E5); a warning that comes too rarely is better than one that is mostly wrong.
_BITS_PER_PIXEL = 0.3
_SPARE = 1 << 20  # bytes


def warn_of_little_room(path: Path, *, frames: int, size: tuple[int, int]) -> None:
    """One warning where ``frames`` frames of ``size`` (height, width) will hardly fit, twice, beside ``path``: the
    finished video is written a second time, with its index in front."""
    needed = round(2 * frames * size[0] * size[1] * _BITS_PER_PIXEL / 8)
    free = _free(path)
    if free is not None and free < needed:
        log.warning(
            "%s: about %d MB are needed for %d frames, %d MB are free there; free some, or name another place: --out",
            *(path, needed >> 20, frames, free >> 20),
        )


def has_room_for_copy(place: Path, *, path: Path, sound: bool) -> bool:
    """Whether a second copy of the file at ``place`` fits beside it; FFmpeg's writer crashes where it does not. Where
    that is not known, it is tried. A warning says what the first copy, which becomes ``path``, lacks.

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
    """Bytes that are free in the folder of ``path``."""
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return None
