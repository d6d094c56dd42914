"""Progress of a long loop on a text stream: one line that is updated on a terminal, otherwise a line every 10 s."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO


class Progress:
    """Shows frames done, frames per second and the time left. A context manager: leaving it ends the line.

    Args:
        total: expected number of frames; None if unknown (then no time left is shown).
        stream: for the lines.
        interval: seconds between lines; default 0.1 on a terminal, else 10.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        total: int | None,
        stream: TextIO,
        *,
        interval: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self._stream = stream
        self._live = stream.isatty()
        self._interval = (0.1 if self._live else 10.0) if interval is None else interval
        self._clock = clock
        self._start = self._shown = clock()
        self._width = 0

    def __enter__(self) -> Progress:
        self._start = self._shown = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._width:
            self._stream.write("\n")
            self._stream.flush()

    def update(self, done: int) -> None:
        """Show that ``done`` frames are finished; writes only if the interval is over."""
        now = self._clock()
        if now - self._shown < self._interval:
            return
        self._shown = now
        text = self._text(done, now - self._start)
        if self._live:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def _text(self, done: int, seconds: float) -> str:
        fps = done / seconds if seconds > 0 else 0.0
        if self.total is None:
            return f"{done} frames, {fps:.1f} fps"
        left = f", {_clock_face(max(0, self.total - done) / fps)} left" if fps else ""
        return f"{done}/{self.total} frames, {fps:.1f} fps{left}"


def _clock_face(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
