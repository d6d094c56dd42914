"""Live sources: the newest frame, and connecting again after a lost connection."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import UserError
from pipeline.video.drawing.picture import SQUARE, Picture
from pipeline.video.sources._base import Frame, Source
from pipeline.video.sources._container import ReadError, Timeouts

log = logging.getLogger(__name__)

#: After a connection of this length the next outage begins with the shortest wait.
_GOOD_S = 10.0


class Connection(Protocol):
    """An open live source; one thread makes, reads and closes it."""

    fps: float | None
    stream: int | None  # number of the video stream; None where there are no numbered streams

    def read(self) -> Picture:
        """The next picture. Raises ReadError at the end and if no picture arrives."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Patience:
    """How long to wait for a live source.

    Attributes:
        timeouts: for opening it and for one frame.
        total: seconds without a frame after which it is an error.
        first_wait, longest_wait: seconds before the first and before later attempts to connect; each wait is twice the
            one before.
    """

    timeouts: Timeouts
    total: float
    first_wait: float = 0.5
    longest_wait: float = 10.0


class LiveSource(Source):
    """Frames of a live source. Timestamps are seconds since the first frame arrived, because clocks of cameras jump.

    Each connection has its own thread, which reads every frame and keeps the newest one. So old frames do not
    accumulate, and a read that blocks does not block the run. The constructor returns after the first frame.

    Args:
        connect: opens a connection, or raises ReadError.

    Raises:
        UserError: it cannot be opened, or no frame arrives.
    """

    live = waits = True

    def __init__(self, connect: Callable[[], Connection], *, name: str, stem: str, patience: Patience) -> None:
        self.name = name
        self.stem = stem
        self._connect = connect
        self._patience = patience
        self._stopped = threading.Event()
        self._line = _Line(connect, self._count_drop)
        try:
            self._line.wait(self._opening)
        except ReadError as error:
            self._line.cut()
            raise UserError(f"{name}: cannot be opened ({error.reason}){error.ending()}") from None
        except BaseException:
            self._line.cut()
            raise
        self.fps, self.stream, self.aspect = self._line.fps, self._line.stream, self._line.aspect

    @property
    def _opening(self) -> float:
        # longer than the connection's own timeouts (two steps of opening, one of reading), whose errors say why
        return 2 * self._patience.timeouts.open + self._patience.timeouts.read + 0.5

    def frames(self, *, start: float = 0.0) -> Iterator[Frame]:
        if start:
            raise UserError(f"{self.name}: a live source starts now; remove --start")
        return self._frames()

    def _frames(self) -> Iterator[Frame]:
        index, begin, wait = 0, None, self._patience.first_wait
        opened = last = time.perf_counter()
        while not self._stopped.is_set():
            try:
                newest = self._line.take(self._patience.timeouts.read)
            except ReadError as lost:
                wait = self._reconnect(lost, last, self._patience.first_wait if last - opened > _GOOD_S else wait)
                opened = time.perf_counter()
                continue
            if newest is None or self._stopped.is_set():
                return
            picture, arrived = newest
            last = time.perf_counter()
            begin = arrived if begin is None else begin
            yield Frame(f"{self.stem}-{index:06d}", arrived - begin, picture, arrived)
            index += 1

    def _reconnect(self, lost: ReadError, last: float, wait: float) -> float:
        """Connect until frames arrive or :meth:`stop` is called; returns the seconds to wait the next time."""
        patience = self._patience
        log.warning("%s: %s; connecting again, for %g s at most", self.name, lost.reason, patience.total)
        while True:
            self._line.cut()
            left = last + patience.total - time.perf_counter()
            if left <= 0:
                raise UserError(
                    f"{self.name}: no frame for {patience.total:g} s, the last reason: {lost.reason}{lost.ending()}"
                )
            if self._stopped.wait(min(wait, left)):
                return wait
            if left <= wait:
                continue
            wait = min(2 * wait, patience.longest_wait)
            self._line = _Line(self._connect, self._count_drop)
            if self._stopped.is_set():  # stop() may not have seen this connection
                self._line.cut()
            try:
                self._line.wait(min(self._opening, max(last + patience.total - time.perf_counter(), 0)))
            except ReadError as again:
                lost = again
                continue
            if not self._stopped.is_set():
                log.warning("%s: frames again, after %.1f s", self.name, time.perf_counter() - last)
            return wait

    def _count_drop(self) -> None:
        self.dropped += 1

    def stop(self) -> None:
        self._stopped.set()
        self._line.cut()

    def close(self) -> None:
        """Stop, and wait up to one second until the connection is closed."""
        self.stop()
        self._line.thread.join(1.0)


class _Line:
    """One connection in a thread, and its newest picture."""

    def __init__(self, connect: Callable[[], Connection], dropped: Callable[[], None]) -> None:
        self.fps: float | None = None
        self.stream: int | None = None
        self.aspect = SQUARE
        self._dropped = dropped
        self._connect = connect
        self._changed = threading.Condition()
        self._newest: tuple[Picture, float] | None = None
        self._error: BaseException | None = None
        self._cut = False
        # a blocked read cannot be interrupted: its thread ends when the read ends
        self.thread = threading.Thread(target=self._run, daemon=True, name="connection")
        self.thread.start()

    def _run(self) -> None:
        try:
            connection = self._connect()
            with closing(connection):
                self.fps, self.stream = connection.fps, connection.stream
                while not self._cut:
                    picture = connection.read()
                    self.aspect = picture.aspect
                    with self._changed:
                        if self._newest is not None and not self._cut:
                            self._dropped()
                        self._newest = (picture, time.perf_counter())
                        self._changed.notify_all()
        except BaseException as error:  # take() raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait for a picture or :meth:`cut`. Raises the error of the connection, or ReadError if nothing arrives."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self._error or self._cut, seconds)
            if self._newest is None and not self._cut:
                raise self._error or ReadError(f"no frame for {seconds:.1f} s", "check that it is sending")

    def take(self, seconds: float) -> tuple[Picture, float] | None:
        """The newest picture and its time of arrival; None after :meth:`cut`. Waits and raises like :meth:`wait`."""
        self.wait(seconds)
        with self._changed:
            newest, self._newest = self._newest, None
            return newest

    def cut(self) -> None:
        """End the connection: :meth:`wait` returns, and the thread ends after its current read."""
        with self._changed:
            self._cut = True
            self._changed.notify_all()
