"""A video with an end, read with PyAV: every frame is taken, with the time that the file gives it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Any, NoReturn

from pipeline.errors import UserError
from pipeline.video.picture import Picture
from pipeline.video.sound import Sound
from pipeline.video.sources._address import Address
from pipeline.video.sources._base import Frame, Source
from pipeline.video.sources._container import ReadError, Timeouts, open_container, read_error, set_threads
from pipeline.video.sources._decoded import Turned
from pipeline.video.sources._facts import Remarks, StreamOptions, tell_streams
from pipeline.video.sources._interlaced import Progressive

log = logging.getLogger(__name__)

#: Share of the packets that a file may lack against what its header says, without a word: players drop some, too.
_SLACK = 0.01


class VideoFile(Source):
    """A local file, or one on a server.

    Timestamps count from the start of the video stream; where the file has none they follow from the frame rate.
    Frames are called by their number, counted from ``start`` at the frame rate.

    Args:
        timeouts: for a file on a server.
        options: of FFmpeg, for opening.
        reading: which stream, and what is done about HDR and interlacing.

    Raises:
        UserError: it cannot be opened, has no pictures, or not one of them can be decoded.
    """

    def __init__(
        self,
        address: Address,
        av: Any,
        *,
        timeouts: Timeouts | None = None,
        options: dict[str, str] | None = None,
        reading: StreamOptions = StreamOptions(),  # noqa: B008 - cannot be changed
    ) -> None:
        self.name = address.name
        self.stem = address.stem
        self._address = address
        self._av = av
        self._timeouts = timeouts
        self.waits = timeouts is not None
        self._options = options
        self._reading = reading
        self._remarks = Remarks(self.name)
        container, stream = self._open()
        with container:
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else None
            self._packets = stream.frames or None
            self.count = self._packets or self._estimate(container, stream)
            self.stream = stream.index
            tell_streams(container, stream, self._remarks)
            self.sound = Sound.of(container, stream, av, name=self.name, reopen=lambda: self._open()[0])
            decoder = self._decoder(container, stream)
            first = next(decoder.pictures(), None)
            if first is None:
                self._give_up(decoder)
            self.aspect = first[1].aspect

    @property
    def _advice(self) -> str:
        return (
            convert(self.name)
            if self._timeouts is None
            else "check that it plays; a server that cannot seek needs a file with its index in front: download it"
        )

    def _open(self) -> tuple[Any, Any]:
        try:
            return open_container(
                self._av,
                self._address,
                timeouts=self._timeouts,
                options=self._options,
                number=self._reading.number,
            )
        except ReadError as error:
            what = "not a readable video" if self._timeouts is None else "cannot be read"
            raise UserError(f"{self.name}: {what} ({error.reason}); {error.advice or self._advice}") from None

    def _estimate(self, container: Any, stream: Any) -> int | None:
        if stream.duration is not None and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            seconds = container.duration / self._av.time_base
        else:
            return None
        return round(seconds * self.fps) or None if self.fps else None

    def frames(self, *, start: float = 0.0) -> Iterator[Frame]:
        with ExitStack() as stack:
            decoder = self._begin(stack, start)
            given = number = 0
            for time, picture in decoder.pictures(start=start, step=1 / (self.fps or 25)):
                if not given and start > 0 and self.fps:
                    number = round(time * self.fps)
                yield Frame(f"{self.stem}-{number + given:06d}", time, picture)
                given += 1
        if not decoder.decoded or (not given and start <= 0):
            self._give_up(decoder)
        if not given:
            raise UserError(f"{self.name}: nothing from {start:g} s on, it ends at {decoder.now:.2f} s; start earlier")
        self._tell_damage(decoder, given, whole=start <= 0)

    def _begin(self, stack: ExitStack, start: float) -> _Decoder:
        """A decoder at a key frame before ``start``, or at the first frame where seeking fails."""

        def decoder() -> _Decoder:
            container, stream = self._open()
            stack.enter_context(container)
            set_threads(stream, live=False, alone=self.alone)
            return self._decoder(container, stream)

        there = decoder()
        return there if start <= 0 or there.seek(start) else decoder()

    def _decoder(self, container: Any, stream: Any) -> _Decoder:
        return _Decoder(self._av, container, stream, self._timeouts, reading=self._reading, remarks=self._remarks)

    def _give_up(self, decoder: _Decoder) -> NoReturn:
        reason = f" ({decoder.broken.reason})" if decoder.broken else ""
        raise UserError(f"{self.name}: not one frame of this video can be decoded{reason}; {self._advice}")

    def _tell_damage(self, decoder: _Decoder, given: int, *, whole: bool) -> None:
        """One warning with figures. What a server breaks off is an error: the rest is there, and can be had."""
        if decoder.broken and self._timeouts is not None:
            raise UserError(f"{self.name}: broke off after {given} frames ({decoder.broken.reason}); run it again")
        told = [f"{decoder.damaged} packets could not be decoded"] if decoder.damaged else []
        told += [f"{decoder.corrupt} frames are decoded in part"] if decoder.corrupt else []
        told += [f"reading stopped early ({decoder.broken.reason})"] if decoder.broken else []
        if whole and self._packets and decoder.packets + 1 < self._packets * (1 - _SLACK):
            told.append(f"it should have {self._packets}, so it was cut off")
        if told:
            log.warning("%s: damaged: %d frames were read; %s", self.name, given, "; ".join(told))


class _Decoder:
    """Decodes a stream to its end, over what is damaged.

    Attributes:
        packets, decoded: how many there were.
        damaged: packets that could not be decoded.
        corrupt: frames that the decoder marks as incomplete.
        broken: why reading ended before the end; None when it did not.
        now: time of the newest frame, in seconds from the start of the stream.
    """

    def __init__(
        self,
        av: Any,
        container: Any,
        stream: Any,
        timeouts: Timeouts | None,
        *,
        reading: StreamOptions,
        remarks: Remarks,
    ) -> None:
        self._av = av
        self._container = container
        self._stream = stream
        self._seconds = timeouts.read if timeouts else None
        self._origin = stream.start_time
        self._unit = stream.time_base
        self._turned = Turned(stream, remarks, tone_map=reading.tone_map)
        progressive = Progressive(av, wanted=reading.deinterlace, remarks=remarks)
        self._frames: Iterator[Any] = progressive.of(self._decode())
        self.packets = self.decoded = self.damaged = self.corrupt = 0
        self.broken: ReadError | None = None
        self.now = 0.0

    def seek(self, start: float) -> bool:
        """Go to a key frame before ``start``. False when it cannot, or came out behind; then this is of no more use."""
        if self._origin is None:
            return False
        try:
            self._container.seek(self._origin + int(start / self._stream.time_base), stream=self._stream)
        except self._av.error.FFmpegError:
            return False
        first = next(self._frames, None)
        if first is None or (self._time(first) or 0.0) > start:
            return False
        self._frames = chain([first], self._frames)
        return True

    def pictures(self, *, start: float = 0.0, step: float = 0.0) -> Iterator[tuple[float, Picture]]:
        """Times and pictures from ``start`` on; where the file has no times, ``step`` lies between two."""
        for number, frame in enumerate(self._frames):  # more may be decoded by then: some wait to be deinterlaced
            known = self._time(frame)
            self.now = known if known is not None else self.now + step if number else 0.0
            if self.now < start - 1e-6:
                continue
            try:
                picture = self._turned.picture_of(frame)
            except self._av.error.FFmpegError:  # a pixel format that FFmpeg cannot convert
                self.damaged += 1
                continue
            yield self.now, picture

    def _time(self, frame: Any) -> float | None:
        if frame.pts is None:
            return None
        if self._origin is None:
            self._origin = frame.pts
        return float((frame.pts - self._origin) * self._unit.numerator / self._unit.denominator)

    def _decode(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except self._av.error.FFmpegError as error:
                self.broken = read_error(self._av, error, self._seconds)
                return
            if packet is None:
                return
            self.packets += packet.size > 0
            try:
                frames = packet.decode()
            except self._av.error.EOFError:
                return
            except self._av.error.FFmpegError:
                self.damaged += 1
                continue
            for frame in frames:
                self.decoded += 1
                self.corrupt += bool(frame.is_corrupt)
                yield frame


def convert(name: str) -> str:
    """What to do about a video that cannot be read."""
    return f"convert it with: ffmpeg -i {shlex.quote(name)} -c:v libx264 out.mp4"
