"""Video from a pipe: standard input or a named pipe. It is read once, from its beginning to its end."""

from __future__ import annotations

import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.video.names import STEM, shortened
from pipeline.video.sources._address import Address
from pipeline.video.sources._base import Frame
from pipeline.video.sources._container import ReadError, open_container
from pipeline.video.sources._decoder import Decoder
from pipeline.video.sources._facts import StreamOptions
from pipeline.video.sources.video_file import VideoFile

log = logging.getLogger(__name__)

STANDARD_INPUT = "-"
_REMEMBERED = 1 << 26  # bytes before the first picture; FFmpeg probes 5 MB of a stream by default
_LOOK_S = 0.2  # seconds between checks whether reading should end
_ADVICE = (
    "a pipe cannot be read backwards: send MPEG-TS, Matroska or an MP4 with its index in front, or name the file itself"
)


class _Feed:
    """Bytes of a pipe for PyAV. The first bytes are read twice, because a source decodes its first picture when it is
    opened, and later begins again.

    Args:
        descriptor: of the pipe; :meth:`release` closes it.
        name: for messages.
        patience: seconds without a byte after which it is an error.

    Attributes:
        error: exception that ended the reading early, also Ctrl-C. PyAV may lose an exception that is raised while it
            reads. So PyAV gets the end of the file instead, and the caller of PyAV calls :meth:`check`.
    """

    def __init__(self, descriptor: int, *, name: str, patience: float) -> None:
        self._descriptor = descriptor
        self._name = name
        self._patience = patience
        self.error: BaseException | None = None
        self._kept: bytearray | None = bytearray()
        self._again = 0
        self._stopped = threading.Event()
        self._reading = threading.Lock()
        # on Windows wait() does not work with the descriptor of a pipe
        self._can_wait = sys.platform != "win32"

    def begin_anew(self) -> None:
        """Repeat the bytes that were read until now; later bytes are not kept."""
        assert self._kept is not None
        self._first = memoryview(bytes(self._kept))
        self._kept = None

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; no bytes at the end and after an error."""
        if self.error is not None:
            return b""
        try:
            return self._read(size)
        except BaseException as error:
            self.error = error
            return b""

    def check(self) -> None:
        """Raise :attr:`error` if there is one."""
        if self.error is not None:
            raise self.error

    def _read(self, size: int) -> bytes:
        if self._kept is None and self._again < len(self._first):
            part = bytes(self._first[self._again : self._again + size])
            self._again += len(part)
            if self._again == len(self._first):
                self._first, self._again = memoryview(b""), 0
            return part
        with self._reading:
            part = os.read(self._descriptor, size) if self._wait() else b""
        if self._kept is not None:
            self._kept += part
            if len(self._kept) > _REMEMBERED:
                raise UserError(f"{self._name}: no picture in the first {_REMEMBERED >> 20} MB; {_ADVICE}")
        return part

    def _wait(self) -> bool:
        """Wait until there are bytes to read, or the end. False after :meth:`stop`."""
        until = time.monotonic() + self._patience
        while self._can_wait and not self._stopped.is_set():
            if wait([self._descriptor], _LOOK_S):
                return True
            if time.monotonic() > until:
                raise UserError(
                    f"{self._name}: nothing came through this pipe for {self._patience:g} s; start what writes into "
                    "it, or wait longer with --patience S"
                )
        return not self._stopped.is_set()

    def stop(self) -> None:
        self._stopped.set()

    def release(self) -> None:  # not called close(), which PyAV would call itself
        self.stop()
        with self._reading:  # not during a read: another file could get the number
            os.close(self._descriptor)


class PipedVideo(VideoFile):
    """A video that is read once. If this is slower than the program that writes into the pipe, that program waits, so
    no frame is lost.

    Args:
        path: the named pipe; None: standard input.
        patience: seconds without a byte after which it is an error.
        fps, reading: see :class:`VideoFile`.

    Raises:
        UserError: no bytes arrive, or they are not a video that can be read as a stream.
    """

    def __init__(
        self, path: Path | None, av: Any, *, patience: float, fps: float | None = None, reading: StreamOptions
    ) -> None:
        name = "standard input" if path is None else str(path)
        stem = "stdin" if path is None else shortened(path.stem, STEM)
        self._feed = _Feed(_descriptor(path), name=name, patience=patience)
        self._looking = True
        self._read_once = False
        try:
            with _errors_of(self._feed):  # the protocols allow nothing but the pipe
                super().__init__(Address(url="", name=name, stem=stem, protocols="pipe"), av, fps=fps, reading=reading)
        except BaseException:
            self._feed.release()
            raise
        self._looking = False
        if self.sound is not None:
            log.warning(
                "%s: its sound is not carried over, as a pipe is read once; --audio copies it from a file", name
            )
            self.sound = None
        self._feed.begin_anew()
        self.waits = True

    @property
    def _advice(self) -> str:
        return _ADVICE

    def _open(self) -> tuple[Any, Any]:
        if not self._looking and self._read_once:
            raise UserError(f"{self.name}: is a pipe and was read already; start the program that writes into it again")
        self._read_once = not self._looking
        try:
            return open_container(self._av, self._address, source=self._feed, number=self._reading.number)
        except ReadError as error:
            raise UserError(f"{self.name}: not a readable video ({error.reason}); {_ADVICE}") from None

    def _begin(self, stack: ExitStack, start: float) -> Decoder:
        return super()._begin(stack, 0.0)  # frames before the start are decoded and skipped; a pipe cannot seek

    def frames(self, *, start: float = 0.0) -> Iterator[Frame]:
        with _errors_of(self._feed):
            yield from super().frames(start=start)

    def stop(self) -> None:
        self._feed.stop()

    def close(self) -> None:
        self._feed.release()


@contextmanager
def _errors_of(feed: _Feed) -> Iterator[None]:
    """Raise the error of the feed instead of the errors that follow from it."""
    try:
        yield
    except (UserError, OSError):
        feed.check()
        raise
    feed.check()


def is_pipe(path: Path) -> bool:
    """Whether it is a named pipe, or another pipe with a path, such as ``/dev/stdin`` and ``/dev/fd/63``."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def _descriptor(path: Path | None) -> int:
    if path is not None:
        # without O_NONBLOCK open() would wait for a writer, and Ctrl-C would not work
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        if hasattr(os, "set_blocking"):
            os.set_blocking(descriptor, True)
        return descriptor
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("-: standard input is no pipe; send a video into it: cat drive.ts | infer.py ENGINE -")
    return os.dup(sys.stdin.fileno())
