"""A separate program that sends a video to an address or writes it as a playlist: ``python _sender.py``

PyAV holds Python's global lock while FFmpeg opens and closes a connection. The network decides how long that takes, and
it cannot be interrupted. In the process of the run it would stop all threads. Here it stops only this program, an alarm
of the system ends it in time, and a crash of a muxer is only a lost connection.

Standard input: a line of JSON, ``{"url", "format", "options", "timeout", "head"}``; then a file in the container NUT of
``head`` bytes, which describes the stream; then packets, each after :data:`PACKET`. So the list of processes and the
environment show no password. Standard output: a line of JSON when the server has accepted the stream,
``{"open": true}``, and one at the end, ``{"sent": packets}``, with ``"error"`` and ``"kind"`` when it failed. A call
that takes longer than ``timeout`` seconds ends the program by SIGALRM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from io import BytesIO, FileIO
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO

#: Presentation time and duration in ticks, whether it is a key frame, and how many bytes follow.
PACKET = Struct("<qq?I")
TICKS = 90_000  # per second; MPEG's clock
#: The parameters are in the header, so FFmpeg does not need to probe the stream.
_AT_ONCE = {"probesize": "32", "analyzeduration": "0"}


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """End this process if the body takes longer."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


def _print(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


class _Folder:
    """Files of a playlist. After an error FFmpeg would continue, and give an incomplete file its final name. So after
    the first error nothing is written, and the file is removed before it is renamed.

    Attributes:
        error: the first error; None if there was none.
    """

    def __init__(self) -> None:
        self.error: OSError | None = None

    def open(self, url: str, flags: int, options: object) -> _File:
        """For av.open(io_open=...)."""
        return _File(url, self)

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self.error is not None:
            raise self.error


class _File:
    def __init__(self, path: str, folder: _Folder) -> None:
        self._path, self._folder = Path(path), folder
        self._file: FileIO | None = None
        if folder.error is None:
            try:
                self._file = self._path.open("wb", buffering=0)
            except OSError as error:
                folder.error = error

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view and self._file is not None and self._folder.error is None:
            try:
                view = view[self._file.write(view) :]
            except OSError as error:
                self._folder.error = error
        return len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._folder.error is not None:
            with suppress(OSError):
                self._path.unlink()


def _read(given: BinaryIO, size: int) -> bytes:
    """``size`` bytes, or none if the input ends before."""
    data = given.read(size)
    return data if len(data) == size else b""


def _packets(av: Any, given: BinaryIO) -> Iterator[Any]:
    while head := _read(given, PACKET.size):
        pts, duration, key, size = PACKET.unpack(head)
        data = _read(given, size)
        if not data:
            return
        packet = av.Packet(data)
        packet.time_base = Fraction(1, TICKS)
        packet.pts = packet.dts = pts  # there are no B frames
        packet.duration = duration
        packet.is_keyframe = key
        yield packet


def main() -> None:
    import av  # noqa: PLC0415 - optional, and this file is also imported without it

    av.logging.set_level(av.logging.PANIC)  # FFmpeg's lines may hold addresses
    given = sys.stdin.buffer
    order = json.loads(given.readline())
    sent = 0
    folder = _Folder()
    own = {"io_open": folder.open} if order["format"] == "hls" else {}
    try:
        with av.open(BytesIO(given.read(order["head"])), format="nut", options=_AT_ONCE) as description:
            target = av.open(order["url"], "w", format=order["format"], options=order["options"], **own)
            stream = target.add_stream_from_template(description.streams.video[0], opaque=True)
        with _within(order["timeout"]):
            target.start_encoding()
        _print(open=True)
        for packet in _packets(av, given):
            packet.stream = stream
            with _within(order["timeout"]):
                target.mux(packet)
            folder.check()
            sent += 1
        with _within(order["timeout"]):
            target.close()
        folder.check()
    except Exception as error:
        _print(sent=sent, error=getattr(error, "strerror", None) or str(error), kind=type(error).__name__)
        sys.stdout.flush()
        os._exit(1)  # exit at once: closing a container that failed could block
    _print(sent=sent)


if __name__ == "__main__":
    if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
        sys.path.pop(0)  # the modules of this folder must not hide others
    main()
