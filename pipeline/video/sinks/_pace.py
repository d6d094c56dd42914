"""Real time for frames of a file: when each one is due."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

_LATE_S = 0.5  # seconds that the buffer of a viewer can bridge; after a longer delay the clock starts again
_JUMP_S = 10.0  # a longer step of the timestamps is a jump of the clock and no pause


class Pace:
    """Waits for the time of each frame by its timestamp.

    Args:
        fps: frame rate, for timestamps that are missing, fall or jump.
        wait: waits for a number of seconds, and returns early if the run ends.
        name: of the destination, for messages.
    """

    def __init__(self, *, fps: float, wait: Callable[[float], object], name: str) -> None:
        self._step = 1 / fps
        self._wait, self._name = wait, name
        self._newest: float | None = None  # timestamp
        self._position = 0.0  # seconds from the first to the newest frame
        self._start: float | None = None  # when position 0 was due
        self._warned = False

    def advance(self, timestamp: float | None) -> float:
        """Take the timestamp of the next frame. Returns its seconds from the first frame, which always rise."""
        if timestamp is not None and self._newest is not None:
            step = timestamp - self._newest
            self._position += step if 0 < step < _JUMP_S else self._step
        elif self._start is not None or self._position:
            self._position += self._step
        self._newest = timestamp
        return self._position

    def begin(self) -> None:
        """Restart the clock: the newest frame is due now, because a connection was opened."""
        self._start = time.perf_counter() - self._position

    def hold(self) -> float:
        """Wait until the newest frame is due. Returns that time, in seconds of time.perf_counter()."""
        assert self._start is not None
        due = self._start + self._position
        left = due - time.perf_counter()
        if left > 0:
            self._wait(left)
        elif left < -_LATE_S:
            self._start -= left
            due -= left
            if not self._warned:
                log.warning("%s: frames come slower than the video should play; it plays slower", self._name)
                self._warned = True
        return due
