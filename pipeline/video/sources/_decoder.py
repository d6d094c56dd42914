"""Decodes one stream of a file to its end, and skips damaged parts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

from pipeline.video.drawing.picture import Picture
from pipeline.video.sources._container import ReadError, Timeouts, read_error
from pipeline.video.sources._decoded import Turned
from pipeline.video.sources._facts import Remarks, StreamOptions
from pipeline.video.sources._interlaced import Progressive
from pipeline.video.sources._numbers import Numbers
from pipeline.video.sources._timing import Clock, Timing, slack_of

#: Codecs with packets that show no frame, so that packets cannot be counted as frames.
_HIDDEN_PACKETS = ("vp8",)
_LOOKED_AT = 16  # frames that are checked: are their timestamps in the order of display?


class Decoder:
    """Decodes a stream to its end, and skips damaged parts.

    Attributes:
        packets: number of packets that were read.
        decoded: number of frames that were decoded.
        damaged: number of packets that could not be decoded. Packets before the first key frame do not count: a
            recording may begin between key frames.
        corrupt: number of frames that the decoder marks as incomplete.
        broken: why reading stopped before the end; None if it did not.
        torn: whether the last packet is incomplete.
        ended: whether the end was reached.
        now: time of the newest frame, in seconds from the start of the file.
        number: number of the newest frame in the file, from 0.
    """

    def __init__(
        self,
        av: Any,
        container: Any,
        stream: Any,
        timeouts: Timeouts | None,
        *,
        name: str,
        timing: Timing,
        reading: StreamOptions,
        remarks: Remarks,
    ) -> None:
        self._av = av
        self._container = container
        self._stream = stream
        self._seconds = timeouts.read if timeouts else None
        self._timing = timing
        self._origin = timing.origin
        self._unit = stream.time_base
        self._clock = Clock(name, step=timing.step, leap=timing.leap)
        ticks = 1 / float(self._unit)
        self.numbers = Numbers(
            step=timing.step * ticks,
            leap=timing.leap * ticks,
            ranked=timing.source == "pts" and stream.codec_context.name not in _HIDDEN_PACKETS,
        )
        self._turned = Turned(stream, remarks, tone_map=reading.tone_map)
        progressive = Progressive(av, wanted=reading.deinterlace, remarks=remarks)
        self._frames: Iterator[Any] = progressive.of(self._decode())
        self.packets = self.decoded = self.damaged = self.corrupt = 0
        self.broken: ReadError | None = None
        self.torn = self.ended = False
        self.now = 0.0
        self.number = -1
        self._key: Any = None  # the first key frame's packet

    def seek(self, start: float) -> Any | None:
        """Go to a key frame before ``start``. Returns its packet; None if that fails: then use another decoder."""
        if self._origin is None:
            return None
        aim = max(start - self._timing.step, 0.0)
        try:
            self._container.seek(self._origin + int(aim / self._stream.time_base), stream=self._stream)
        except self._av.error.FFmpegError:
            return None
        first = next(self._frames, None)
        if first is None or self._key is None or (self._stamp(first) or 0.0) > aim + 1e-6:
            return None
        self._frames = chain([first], self._frames)
        return self._key

    def falls(self) -> bool:
        """Whether times of frames fall and those of packets do not: then the file has decoding times only."""
        last = None
        for _, frame in zip(range(_LOOKED_AT), self._frames, strict=False):
            if self.numbers.reordered:
                return False
            if last is not None and frame.pts is not None and frame.pts < last:
                return True
            last = frame.pts
        return False

    def pictures(self, *, start: float = 0.0) -> Iterator[tuple[float, Picture]]:
        """(seconds, picture) from ``start`` on; for the first see :func:`pipeline.video.sources._timing.slack_of`."""
        begin = start - slack_of(self._timing.step) if start > 0 else -math.inf
        for frame in self._frames:
            self.now = self._clock.at(self._stamp(frame))
            self.number = self.numbers.of(frame.pts)
            if self.now < begin:
                continue
            try:
                picture = self._turned.picture_of(frame)
            except self._av.error.FFmpegError:  # a pixel format that FFmpeg cannot convert
                self.damaged += 1
                continue
            yield self.now, picture
        self.ended = True

    @property
    def leapt(self) -> float | None:
        """Time of the first frame after a jump of the timestamps; None if there was no jump until now."""
        return self._clock.leapt

    def _stamp(self, frame: Any) -> float | None:
        if self._origin is None:
            self._origin = frame.dts if self._timing.source == "dts" else frame.pts
        return self._timing.stamp(frame, origin=self._origin, unit=self._unit)

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
            if packet.size:
                self.packets += 1
                self.torn = bool(packet.is_corrupt)
                if self._key is None and packet.is_keyframe:
                    self._key = packet
                self.numbers.add(packet)
            try:
                frames = packet.decode()
            except self._av.error.EOFError:
                return
            except self._av.error.FFmpegError:
                self.damaged += self._key is not None
                continue
            for frame in frames:
                self.decoded += 1
                self.corrupt += bool(frame.is_corrupt)
                yield frame
