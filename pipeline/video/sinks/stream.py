"""Overlays as a live stream: to an RTSP or RTMP server, or as MPEG-TS over UDP or SRT."""

from __future__ import annotations

import logging
import threading
import time
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.errors import UserError
from pipeline.video._av import load_av
from pipeline.video.drawing.picture import Picture
from pipeline.video.sinks._base import Result
from pipeline.video.sinks._destination import Destination, of_address
from pipeline.video.sinks._frames import EncoderFrames
from pipeline.video.sinks._pace import Pace
from pipeline.video.sinks._sending import Encoding, Lost, Sending
from pipeline.video.sinks.h264 import DEFAULT_FPS, PRESETS

log = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 10.0  # before another attempt to connect; each wait is twice the one before
_GOOD_S = 10.0  # after a connection of this length the next outage begins with the shortest wait
_LEAVE_S = 3.0  # to send the last frames


class StreamSink:
    """Sends overlays as H.264 with low delay: no frame waits in the encoder, and every second has a key frame.

    Of a live source the newest frame is sent, with its time of arrival. Frames that arrive while the server is slow or
    gone are dropped and counted, and the run never waits. Of a file all frames are sent, in real time by their
    timestamps. A lost connection is opened again, with growing pauses. The first connection must succeed.

    Args:
        address: rtsp://, rtsps://, rtmp://, rtmps://, udp:// or srt://.
        live: whether the source is live.
        fps: frame rate, for frames without timestamps and for the encoder's rate control.
        crf, preset: see :class:`pipeline.video.sinks.H264Sink`.
        timeout: most seconds of one step of connecting or sending.
        patience: seconds without a connection after which it is an error.

    Raises:
        UserError: in the constructor, if the address cannot be used, or PyAV or its libx264 is missing.
    """

    wants_picture = waits = True
    written: Path | None = None

    def __init__(
        self,
        address: str,
        *,
        live: bool,
        fps: float = DEFAULT_FPS,
        crf: int = 20,
        preset: str = "ultrafast",
        timeout: float = 10.0,
        patience: float = 60.0,
    ) -> None:
        self._av: Any = self._load(crf, preset)
        self._to = self._destination(address, live)
        self._rate = Fraction(min(max(fps, 1e-3), 1e3)).limit_denominator(1001)
        self.patient = not live
        self._paced = not live and self._to.path is None
        self._encoding = Encoding(self._rate, crf, preset, self._to.key_s)
        self._timeout, self._patience = max(timeout, 0.1), patience
        self._frames = EncoderFrames(self._av, self._to.name)
        self._hurried = threading.Event()
        self._pace = Pace(fps=float(self._rate), wait=self._hurried.wait, name=self._to.name)
        self._line: Sending | None = None
        self._opening: Sending | None = None
        self._opened = self._fresh = 0.0  # times of the newest connection and of the last frame sent
        self._wait = _FIRST_WAIT_S
        self._due = 0.0  # when the next attempt to connect is
        self._sent = self._seen = self._connections = 0

    def _destination(self, address: str, live: bool) -> Destination:
        return of_address(address, self._av)

    def _load(self, crf: int, preset: str) -> Any:
        if preset not in PRESETS or not 0 <= crf <= 51:
            raise UserError(f"--out: got preset {preset}, crf {crf}; allowed: {', '.join(PRESETS)}; crf 0 to 51")
        av = load_av()
        if av is None:
            raise UserError("--out: a stream needs PyAV: pip install av; or watch it in a browser with --serve PORT")
        try:
            av.codec.Codec("libx264", "w")
        except ValueError as error:
            raise UserError(
                "--out: this PyAV was built without libx264; use the wheel: pip install --force-reinstall av; or watch "
                "it in a browser with --serve PORT"
            ) from error
        return av

    def __enter__(self) -> StreamSink:
        return self

    def write(self, result: Result) -> None:
        picture = result.picture
        assert picture is not None, "an overlay sink needs a loop that draws"
        self._seen = result.index + 1
        position = self._pace.advance(result.timestamp)
        while self._line is not None or self._connect(picture):
            assert self._line is not None
            seconds = self._pace.hold() if self._paced else position if self.patient else result.arrived
            try:
                self._line.send(picture, result.name, seconds)
                self._fresh = time.perf_counter()
                return
            except Lost as lost:
                self._drop(lost)
            except self._av.error.FFmpegError as error:
                height, width = picture.size
                raise UserError(f"{self._to.name}: frames of {width}x{height} cannot be encoded ({error})") from None

    def _drop(self, lost: Lost) -> None:
        """A connection is lost: warn, and wait before the next attempt, longer if the connection was short."""
        assert self._line is not None
        self._line.kill()
        self._sent += self._line.sent
        self._line = None
        if self._to.path is not None:
            raise self._unwritable(lost.reason)
        if self._hurried.is_set():
            log.warning("%s: accepts no more data; the last frames are dropped", self._to.name)
            return
        log.warning("%s: %s; connecting again, for %g s at most", self._to.name, lost.reason, self._patience)
        if time.perf_counter() - self._opened > _GOOD_S:
            self._wait = _FIRST_WAIT_S
        self._pause(lost)

    def _connect(self, picture: Picture) -> bool:
        """Open a connection. False: the run is ending, or the source is live and it is too early for another attempt.

        Raises:
            UserError: the first attempt fails, or there is no connection for ``patience`` seconds.
        """
        self._frames.first = self._frames.first or picture
        while (self.patient or time.perf_counter() >= self._due) and not self._hurried.is_set():
            try:
                line = Sending(self._av, self._to, self._frames, encoding=self._encoding, timeout=self._timeout)
                self._opening = line
                line.open()
            except Lost as lost:
                if self._hurried.is_set():
                    return False
                if not self._connections:
                    if self._to.path is not None:
                        raise self._unwritable(lost.reason) from None
                    raise UserError(f"{self._to.name}: cannot be opened ({lost.reason}){lost.advice}") from None
                self._pause(lost)
                continue
            finally:
                self._opening = None
            now = time.perf_counter()
            if self._connections:
                log.warning("%s: connected again, after %.1f s", self._to.name, now - self._fresh)
            self._connections += 1
            self._line, self._opened, self._fresh = line, now, now
            self._pace.begin()
            return True
        return False

    def _pause(self, lost: Lost) -> None:
        """Set the time of the next attempt; of a file, wait for it. Raises UserError after ``patience`` seconds."""
        now = time.perf_counter()
        left = self._fresh + self._patience - now
        if left <= 0:
            raise UserError(
                f"{self._to.name}: no connection for {self._patience:g} s, the last reason: {lost.reason}{lost.advice}"
            )
        pause = min(self._wait, left)
        self._wait = min(2 * self._wait, _LONGEST_WAIT_S)
        self._due = now + pause
        if self.patient:
            self._hurried.wait(pause)

    def _unwritable(self, reason: str) -> UserError:
        return UserError(f"{self._to.name}: cannot be written ({reason}); free the place or name another one")

    def hurry(self) -> None:
        """No more frames are read: do not wait any longer. Called from any thread."""
        first = not self._hurried.is_set()
        self._hurried.set()
        opening = self._opening
        if opening is not None:
            opening.kill()
        if first and self._to.path is None:
            leaving = threading.Timer(_LEAVE_S, self._leave)
            leaving.daemon = True
            leaving.start()

    def _leave(self) -> None:
        """End a connection that accepts no data."""
        line = self._line
        if line is not None:
            line.kill()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hurried.set()
        line, self._line = self._line, None
        if line is None:
            return
        try:
            line.finish(_LEAVE_S if self._to.path is None else 2 * self._timeout)
        except Lost as lost:
            line.kill()
            if self._to.path is not None and kind is None:
                raise self._unwritable(lost.reason) from None
            log.warning("%s: at its end: %s", self._to.name, lost.reason)
        finally:
            self._sent += line.sent

    @property
    def dropped(self) -> int:
        """Number of overlays that were not sent."""
        return self._seen - self._sent - (self._line.sent if self._line else 0)

    def to_meta(self) -> dict[str, Any]:
        """Plain values for JSON, after the run."""
        return {
            "to": self._to.name,
            "sent": self._seen - self.dropped,
            "dropped": self.dropped,
            "connections": self._connections,
        }

    def describe(self) -> str:
        """Number of frames that were sent, as text."""
        again = self._connections - 1
        times = f", connected again {again} time{'s' if again > 1 else ''}" if again > 0 else ""
        return f"sent to {self._to.name}: {self._seen - self.dropped} frames, {self.dropped} dropped{times}"
