"""The sound of a video, copied into an overlay video in step with its pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.errors import UserError

log = logging.getLogger(__name__)

#: Codecs that MP4 holds and players know; all else is encoded anew as AAC.
_COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")
_BIT_RATE = 96_000  # of a channel; AAC is transparent for most ears from 64 kbit/s on
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_USUAL_RATE = 48_000
_AAC_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1")
# from one packet to the next: what jumps further has another clock afterwards, and cannot be kept in step
_ON_S, _BACK_S = 10.0, 1.0


@dataclass(frozen=True)
class Sound:
    """One audio stream of a file that can be opened again.

    Attributes:
        name: of the file.
        number: of the audio stream in its container.
        codec: its name, as FFmpeg has it.
        zero: where the timestamp 0 of the frames lies, in seconds of the container's clock.
        others: how many audio streams there are besides.
    """

    name: str
    number: int
    codec: str
    zero: float
    others: int
    av: Any
    reopen: Callable[[], Any]

    @classmethod
    def of(
        cls, container: Any, video: Any, av: Any, *, name: str, origin: int | None, reopen: Callable[[], Any]
    ) -> Sound | None:
        """The sound that players choose beside a video stream; None where there is none, or no clock to place it by.

        Args:
            origin: timestamp of the video stream that is 0 s of its frames; None: that of its first frame.
        """
        stream = container.streams.best("audio", related=video)
        if stream is None or stream.codec_context is None or video.start_time is None:
            return None
        codec = stream.codec_context.codec
        return cls(
            name=name,
            number=stream.index,
            codec=getattr(codec, "canonical_name", codec.name),
            zero=float((video.start_time if origin is None else origin) * video.time_base),
            others=len(container.streams.audio) - 1,
            av=av,
            reopen=reopen,
        )

    def into(self, target: Any, *, origin: float, end: float) -> Iterator[Any]:
        """Add a stream to an MP4 that is being written, and yield its packets in order.

        Sound that cannot be read to its end is a warning, not an error: the pictures are worth more.

        Args:
            target: an av.OutputContainer into which nothing was written yet.
            origin: timestamp of a frame (see :class:`pipeline.video.sources.Frame`) that lies at 0 s of the target.
            end: seconds of the target at which its pictures end.
        """
        try:
            source = self.reopen()
            stream = next(stream for stream in source.streams.audio if stream.index == self.number)
            copied = self.codec in _COPIED
            added = target.add_stream_from_template(stream) if copied else self._encoder(target, stream)
        except (UserError, StopIteration, OSError, ValueError, self.av.error.FFmpegError) as error:
            self.tell_lost(error)
            return iter(())
        shift = self.zero + origin
        packets = self._copied(source, stream, added, shift) if copied else self._encoded(source, stream, added, shift)
        return self._safe(packets, source, end)

    def _safe(self, packets: Iterator[Any], source: Any, end: float) -> Iterator[Any]:
        with source:
            try:
                for packet in packets:
                    if packet.pts * packet.time_base >= end:
                        break
                    yield packet
            except (OSError, self.av.error.FFmpegError) as error:
                self.tell_lost(error)

    def tell_lost(self, error: Exception) -> None:
        """Warn that the overlay video has no sound, or not all of it."""
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        log.warning(
            "%s: its sound could not be copied, or not to its end (%s); the pictures are whole", self.name, reason
        )

    def _copied(self, source: Any, stream: Any, added: Any, shift: float) -> Iterator[Any]:
        for packet in self._steady(source.demux(stream)):
            moved = round(shift / packet.time_base)
            packet.pts, packet.dts = packet.pts - moved, (packet.pts if packet.dts is None else packet.dts) - moved
            if packet.pts >= 0:
                packet.stream = added
                yield packet

    def _encoder(self, target: Any, stream: Any) -> Any:
        codec = stream.codec_context
        rate = codec.sample_rate if codec.sample_rate in _AAC_RATES else _USUAL_RATE
        usual = "mono" if codec.channels == 1 else "stereo"  # AVI and WAV often do not say where channels stand
        layout = codec.layout.name if codec.layout.name in _AAC_LAYOUTS else usual
        added = target.add_stream("aac", rate=rate)
        added.codec_context.layout = layout
        added.codec_context.bit_rate = _BIT_RATE * added.codec_context.channels
        return added

    def _encoded(self, source: Any, stream: Any, added: Any, shift: float) -> Iterator[Any]:
        for packet in self._steady(source.demux(stream)):
            try:
                frames = packet.decode()
            except self.av.error.FFmpegError:  # damaged: as much silence as it would have lasted
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
        """Packets with a time, until it jumps."""
        due: Fraction | None = None
        for packet in packets:
            if packet.pts is None:
                continue
            time = packet.pts * packet.time_base
            if due is not None and not -_BACK_S < time - due < _ON_S:
                log.warning(
                    "%s: the times of its sound jump from %.1f to %.1f s; the overlay video has no sound from there on",
                    *(self.name, float(due), float(time)),
                )
                return
            due = time + (packet.duration or 0) * packet.time_base
            yield packet
