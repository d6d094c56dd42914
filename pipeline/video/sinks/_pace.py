"""When a frame is due, where frames of a file are sent as if they came from a camera."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

_LATE_S = 0.5  # what a viewer's buffer bridges; whoever is later goes on from there
_JUMP_S = 10.0  # times that go on by more are no pause of the picture


class Pace:
    """Waits for the time of each frame, as the timestamps say it.

    Args:
        fps: frames a second, where frames have no timestamp or it goes back or jumps.
        wait: waits so many seconds, or less when there is no more need to.
        name: of what is sent, for messages.
    """

    def __init__(self, *, fps: float, wait: Callable[[float], object], name: str) -> None:
        self._step = 1 / fps
        self._wait, self._name = wait, name
        self._newest: float | None = None  # timestamp
        self._position = 0.0  # seconds of video until the newest frame
        self._start: float | None = None  # when position 0 was due
        self._told = False

    def advance(self, timestamp: float | None) -> float:
        """The next frame comes. Returns its time in seconds from the first frame, which always rises."""
        if timestamp is not None and self._newest is not None:
            step = timestamp - self._newest
            self._position += step if 0 < step < _JUMP_S else self._step
        elif self._start is not None or self._position:
            self._position += self._step
        self._newest = timestamp
        return self._position

    def begin(self) -> None:
        """The newest frame is due now: a connection is there."""
        self._start = time.perf_counter() - self._position

    def hold(self) -> float:
        """Wait until the newest frame is due. Returns when that was, in seconds of time.perf_counter()."""
        assert self._start is not None
        due = self._start + self._position
        left = due - time.perf_counter()
        if left > 0:
            self._wait(left)
        elif left < -_LATE_S:
            self._start -= left
            due -= left
            if not self._told:
                log.warning("%s: frames come slower than the video should play; it plays slower", self._name)
                self._told = True
        return due
