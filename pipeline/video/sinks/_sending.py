"""One connection for a video: an encoder, and the program that sends its packets, see :mod:`_sender`."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

from pipeline.video.sinks import _sender
from pipeline.video.sinks._destination import Destination, redacted
from pipeline.video.sinks._frames import EncoderFrames
from pipeline.video.workers.cores import codec_threads

_TIME_BASE = Fraction(1, _sender.TICKS)
_DELIMITER = b"\0\0\0\1\x09\xf0"  # H.264 without a picture
_GONE = ("BrokenPipeError", "ConnectionResetError", "ConnectionAbortedError", "EOFError")


class Lost(Exception):  # noqa: N818 - another attempt may succeed
    """The server cannot be reached, refuses the stream, or has closed the connection.

    Attributes:
        reason: in a few words.
        advice: what to do next, as the end of a message; may be empty.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = f"; {advice}" if advice else ""


@dataclass(frozen=True)
class Encoding:
    """How frames are encoded.

    Attributes:
        rate: frame rate, for the encoder's rate control.
        crf, preset: see :class:`pipeline.video.sinks.H264Sink`.
        key_s: seconds between key frames.
    """

    rate: Fraction
    crf: int
    preset: str
    key_s: float


class Sending:
    """A connection with its own encoder, so that it begins with a key frame at 0 s. Used by one thread.

    Args:
        frames: converts pictures; its ``first`` is set.
        timeout: most seconds of one step of connecting or sending.

    Raises:
        Lost: the program cannot be started.

    Attributes:
        sent: number of frames that the server, or the operating system, has accepted.
    """

    def __init__(
        self, av: Any, destination: Destination, frames: EncoderFrames, *, encoding: Encoding, timeout: float
    ) -> None:
        self.sent = 0
        self._av, self._destination, self._frames, self._timeout = av, destination, frames, timeout
        self._key_ticks = round(encoding.key_s * _sender.TICKS)
        self._frame_ticks = round(_sender.TICKS / encoding.rate)
        self._origin: float | None = None
        self._last = -1
        self._key: int | None = None  # when the last key frame was asked for
        self._codec, self._head = self._encoder(encoding)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - a file of ours
                [sys.executable, str(Path(_sender.__file__).resolve())],
                cwd=destination.path.parent if destination.path else None,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C goes to the run only, which then ends this program
            )
        except OSError as error:  # its folder does not exist, or there is no memory
            raise Lost(error.strerror or type(error).__name__) from None

    def _encoder(self, encoding: Encoding) -> tuple[Any, bytes]:
        """An open encoder, and a small file with the description of its stream."""
        buffer = BytesIO()
        container = self._av.open(buffer, "w", format="nut")
        options = {"preset": encoding.preset, "crf": str(encoding.crf), "bf": "0", "tune": "zerolatency"}
        stream = container.add_stream("libx264", rate=encoding.rate, options=options)
        self._frames.describe_to(stream)
        codec = stream.codec_context
        codec.time_base = _TIME_BASE
        codec.gop_size = max(1, round(encoding.key_s * encoding.rate))
        codec.thread_count = codec_threads()
        codec.flags |= self._av.codec.context.Flags.global_header
        nothing = self._av.Packet(_DELIMITER)  # readers need one packet at least
        container.start_encoding()
        nothing.stream, nothing.time_base, nothing.is_keyframe = stream, _TIME_BASE, True
        nothing.pts = nothing.dts = 0
        container.mux(nothing)
        container.close()
        return codec, buffer.getvalue()

    def open(self) -> None:
        """Connect. Raises Lost if the server does not accept within the timeout."""
        order: Mapping[str, Any] = {
            "url": self._destination.url,
            "format": self._destination.format,
            "options": self._destination.options,
            "timeout": self._timeout,
            "head": len(self._head),
        }
        self._give(json.dumps(order).encode() + b"\n" + self._head)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line or "open" not in json.loads(line):
            raise self._lost(line)

    def send(self, picture: Any, name: str, seconds: float) -> None:
        """Encode a picture and send it.

        Args:
            seconds: on any clock; the first one becomes 0.

        Raises:
            Lost: the server is gone, or accepts no data.
        """
        self._origin = seconds if self._origin is None else self._origin
        self._last = ticks = max(round((seconds - self._origin) * _sender.TICKS), self._last + 1)
        frame = self._frames.frame(picture, name)
        frame.time_base, frame.pts = _TIME_BASE, ticks
        due = self._key is None or ticks - self._key >= self._key_ticks
        kinds = self._av.video.frame.PictureType
        frame.pict_type = kinds.I if due else kinds.NONE
        self._key = ticks if due else self._key
        self._hand_over(self._codec.encode(frame))
        self.sent += 1

    def finish(self, limit: float) -> None:
        """Send the last frames and close the connection, within ``limit`` seconds. Raises Lost."""
        self._hand_over(self._codec.encode(None))
        try:
            output, _ = self._process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.communicate()
            raise Lost(f"it did not accept the last frames within {limit:g} s") from None
        self._note(output)
        if self._process.returncode:
            raise self._lost(output)

    def kill(self) -> None:
        """End the program at once, also while :meth:`open` or :meth:`send` waits. Called from any thread."""
        self._process.kill()

    def _hand_over(self, packets: Any) -> None:
        for packet in packets:
            data = bytes(packet)
            head = _sender.PACKET.pack(packet.pts, self._frame_ticks, packet.is_keyframe, len(data))
            self._give(head + data)

    def _give(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError:
            raise self._lost(b"") from None

    def _lost(self, output: bytes) -> Lost:
        """The error that the program printed last, or its exit status."""
        with contextlib.suppress(OSError, ValueError):  # data that is not written yet is lost
            assert self._process.stdin is not None
            self._process.stdin.close()
        assert self._process.stdout is not None
        try:
            status = self._process.wait(self._timeout + 1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        with contextlib.suppress(ValueError):  # closed after it was read
            output += self._process.stdout.read()
        self._process.stdout.close()
        facts = self._note(output)
        if hasattr(signal, "SIGALRM") and status == -signal.SIGALRM:
            return Lost(f"no answer within {self._timeout:g} s", "check the address, its port and the network")
        return _as_lost(str(facts.get("kind", "")), str(facts.get("error", f"its program ended with {status}")))

    def _note(self, output: bytes) -> Mapping[str, Any]:
        """The last line that the program printed."""
        facts: dict[str, Any] = json.loads((output.splitlines() or [b"{}"])[-1])
        self.sent = facts.get("sent", self.sent)
        return facts


def _as_lost(kind: str, reason: str) -> Lost:
    """An exception of the program in a user's words."""
    if kind in _GONE:
        return Lost("it closed the connection")
    if kind in ("HTTPUnauthorizedError", "HTTPForbiddenError"):
        return Lost(reason, "check user and password, as in SCHEME://USER:PASSWORD@HOST/PATH")
    if kind in ("HTTPNotFoundError", "HTTPBadRequestError", "HTTPOtherClientError"):
        return Lost(reason, "check the path of the address, and that the server takes streams there")
    if kind in ("PermissionError", "FileNotFoundError"):
        return Lost(reason, "check its folder and its permissions")
    return Lost(redacted(reason), "check the address, its port and the network, and that somebody listens there")
