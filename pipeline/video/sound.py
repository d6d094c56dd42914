"""The sound of a video, copied into an overlay video in step with its pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any

from pipeline.errors import UserError

log = logging.getLogger(__name__)

#: Codecs that MP4 can hold and players can play. Other sound is encoded again, as AAC.
_COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")
_BIT_RATE = 96_000  # bits per second and channel; most people hear no difference from 64 kbit/s on
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_USUAL_RATE = 48_000
_AAC_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1")
# Largest steps in seconds, forwards and back, from the end of one packet to the next. After a larger step the sound has
# another clock and cannot be kept in sync.
_FORWARD_S, _BACK_S = 10.0, 1.0
#: Reading begins these seconds before the first packet that is needed; the second value is for files in which sound
#: is stored far after the pictures of the same time.
_LEADS_S = (1.0, 15.0)
_WARM_S = 0.5  # of sound that a decoder gets before the first needed packet
_MICROSECONDS = 1_000_000  # FFmpeg's unit of a container's times
#: AVI and DV store no times of sound. FFmpeg counts bytes, and after a seek it may count from a wrong place.
_COUNTED = ("avi", "dv")


@dataclass(frozen=True)
class Sound:
    """One audio stream of a file that can be opened again.

    Attributes:
        name: name of the file.
        number: index of the audio stream in its container.
        codec: FFmpeg's name of the codec.
        zero: container time, in seconds, of a frame whose timestamp is 0.
        others: number of the other audio streams of the file.
        av: the module.
        reopen: opens the container again.
        leapt: returns the timestamp of the first frame that does not follow the container's clock; None if all follow.
    """

    name: str
    number: int
    codec: str
    zero: float
    others: int
    av: Any
    reopen: Callable[[], Any]
    leapt: Callable[[], float | None] = lambda: None

    @classmethod
    def of(
        cls,
        container: Any,
        video: Any,
        av: Any,
        *,
        name: str,
        origin: int | None,
        reopen: Callable[[], Any],
        leapt: Callable[[], float | None] = lambda: None,
    ) -> Sound | None:
        """The audio stream that players choose for a video stream. None if there is no audio stream, or if the video
        has no timestamps.

        Args:
            origin: timestamp of the video stream at which its frames have the time 0 s; None: that of its first frame.
        """
        stream = container.streams.best("audio", related=video)
        if stream is None or stream.codec_context is None or video.start_time is None:
            return None
        codec = stream.codec_context.codec
        return cls(
            name=name,
            number=stream.index,
            codec=codec.canonical_name,
            zero=float((video.start_time if origin is None else origin) * video.time_base),
            others=len(container.streams.audio) - 1,
            av=av,
            reopen=reopen,
            leapt=leapt,
        )

    def into(self, target: Any, *, origin: float, end: float) -> Iterator[Any]:
        """Add an audio stream to an MP4 that is being written, and yield its packets in order.

        If the sound cannot be read to its end, this is a warning and no error, so that the video is not lost.

        Args:
            target: an av.OutputContainer to which nothing is written yet.
            origin: timestamp of the frame (see :class:`pipeline.video.sources.Frame`) that is shown at 0 s of the
                target.
            end: time in seconds of the target at which its pictures end.
        """
        shift = self.zero + origin
        copied = self.codec in _COPIED
        try:
            source, stream, read = self._opened(shift)
            added = target.add_stream_from_template(stream) if copied else self._encoder(target, stream)
        except (UserError, StopIteration, OSError, ValueError, self.av.error.FFmpegError) as error:
            self.warn_lost(error)
            return iter(())
        leapt = self.leapt()
        if leapt is not None and leapt - origin < end:
            end = leapt - origin
            log.warning("%s: its pictures leap in time: the overlay video has no sound from %.1f s on", self.name, end)
        packets = self._copied(read, added, shift) if copied else self._encoded(read, added, shift)
        return self._safe(packets, source, end)

    def _opened(self, begin: float) -> tuple[Any, Any, Iterator[Any]]:
        """The container, its audio stream, and packets from a little before ``begin``, or from the start of the file
        if seeking fails.

        Args:
            begin: seconds of the container's clock.
        """
        source, stream = self._open()
        seekable = not set(source.format.name.split(",")) & set(_COUNTED)
        for lead in _LEADS_S if seekable else ():
            start = 0 if source.start_time is None else source.start_time / _MICROSECONDS
            if begin - lead <= start:
                break
            try:
                source.seek(int((begin - lead) * _MICROSECONDS))
                packets = source.demux(stream)
                first = next((packet for packet in packets if packet.pts is not None), None)
            except (OSError, self.av.error.FFmpegError):
                break
            if first is not None and first.pts * first.time_base <= begin - _WARM_S:
                return source, stream, chain([first], packets)
        source.close()
        source, stream = self._open()
        return source, stream, source.demux(stream)

    def _open(self) -> tuple[Any, Any]:
        source = self.reopen()
        return source, next(stream for stream in source.streams.audio if stream.index == self.number)

    def _safe(self, packets: Iterator[Any], source: Any, end: float) -> Iterator[Any]:
        with source:
            try:
                for packet in packets:
                    if packet.pts * packet.time_base >= end:
                        break
                    yield packet
            except (OSError, self.av.error.FFmpegError) as error:
                self.warn_lost(error)

    def warn_lost(self, error: Exception) -> None:
        """Warn that the overlay video has no sound, or only a part of it."""
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        log.warning(
            "%s: its sound could not be copied, or not to its end (%s); the pictures are complete", self.name, reason
        )

    def _copied(self, packets: Iterator[Any], added: Any, shift: float) -> Iterator[Any]:
        for packet in self._steady(packets):
            moved = round(shift / packet.time_base)
            packet.pts, packet.dts = packet.pts - moved, (packet.pts if packet.dts is None else packet.dts) - moved
            if packet.pts >= 0:
                packet.stream = added
                yield packet

    def _encoder(self, target: Any, stream: Any) -> Any:
        codec = stream.codec_context
        rate = codec.sample_rate if codec.sample_rate in _AAC_RATES else _USUAL_RATE
        usual = "mono" if codec.channels == 1 else "stereo"  # AVI and WAV often have no channel layout
        layout = codec.layout.name if codec.layout.name in _AAC_LAYOUTS else usual
        added = target.add_stream("aac", rate=rate)
        added.codec_context.layout = layout
        added.codec_context.bit_rate = _BIT_RATE * added.codec_context.channels
        return added

    def _encoded(self, packets: Iterator[Any], added: Any, shift: float) -> Iterator[Any]:
        for packet in self._steady(packets):
            try:
                frames = packet.decode()
            except self.av.error.FFmpegError:  # damaged: silence of the same length
                continue
            for frame in frames:
                if frame.pts is None:
                    continue
                frame.pts -= round(shift / frame.time_base)
                if frame.pts >= 0:
                    yield from self._valid(added.encode(frame))
        yield from self._valid(added.encode(None))

    def _valid(self, packets: list[Any]) -> Iterator[Any]:
        return (packet for packet in packets if packet.pts is not None and packet.pts >= 0)

    def _steady(self, packets: Iterator[Any]) -> Iterator[Any]:
        """The packets that have a time, up to the first jump of the time."""
        due: Fraction | None = None
        for packet in packets:
            if packet.pts is None:
                continue
            time = packet.pts * packet.time_base
            if due is not None and not -_BACK_S < time - due < _FORWARD_S:
                log.warning(
                    "%s: the times of its sound jump from %.1f to %.1f s; the overlay video has no sound from there on",
                    *(self.name, float(due), float(time)),
                )
                return
            due = time + (packet.duration or 0) * packet.time_base
            yield packet
