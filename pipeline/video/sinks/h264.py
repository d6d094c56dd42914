"""Overlays as an MP4 that plays in all players, also while it is written and after a crash."""

from __future__ import annotations

import contextlib
import heapq
import logging
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.video._av import load_av
from pipeline.video.drawing.picture import Picture
from pipeline.video.names import temporary_prefix
from pipeline.video.sinks._base import Result
from pipeline.video.sinks._frames import TAGGED, EncoderFrames
from pipeline.video.sinks._room import has_room_for_copy, warn_of_little_room
from pipeline.video.sound import Sound
from pipeline.video.staged import StagedFile
from pipeline.video.workers.cores import codec_threads

log = logging.getLogger(__name__)

DEFAULT_FPS = 25.0
#: Presets of libx264, the fastest first. It takes half the time of the next one, for files up to twice as large.
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow")
_UNPROBED = {"probesize": "32", "analyzeduration": "0"}
_TICKS = 90_000  # per second; MPEG's clock: a frame of 24, 25, 30 or 29.97 fps is a whole number of ticks
_TIME_BASE = Fraction(1, _TICKS)
_KEY_S = 2  # seconds between key frames, and between fragments
_LONGEST = 2**31  # most ticks of a frame in MP4: 6 h 37 min
_SIDE = 16_384  # libx264's limit


class _Disk:
    """A file that keeps its first error and hides it from FFmpeg, whose MP4 writer crashes on a full disk.

    Attributes:
        error: the first error; nothing is written after it. None if there was none.
    """

    def __init__(self, path: Path) -> None:
        self.error: OSError | None = None
        self._file = path.open("wb", buffering=0)

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view and self.error is None:
            try:
                view = view[self._file.write(view) :]
            except OSError as error:
                self.error = error
        return len(data)

    def close(self) -> None:
        self._file.close()

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self.error is not None:
            raise self.error


def _moved(packets: Iterator[Any], stream: Any) -> Iterator[Any]:
    """Packets of one container for a stream of another one."""
    for packet in packets:
        if packet.dts is not None:
            packet.stream = stream
            yield packet


class H264Sink(StagedFile):
    """An MP4 that plays in a browser: H.264, yuv420p, index at the front, a key frame every two seconds or more often.

    While it is written the file is fragmented, so that the file of a killed run plays, except for its last two seconds.
    Times of frames are those of the source, minus that of the first frame. An odd width or height is padded by one
    repeated pixel. A frame of another size is fitted into that of the first one, with grey bars if its shape differs.

    Args:
        path: the .mp4 file.
        fps: frame rate, for frames without a timestamp and for the encoder's rate control.
        crf: quality of libx264, 0 (lossless) to 51; 20 is visually close to the source.
        preset: one of :data:`PRESETS`.
        sound: is copied into the file, in sync with the frames; None: no sound.
        threads: of the encoder; None: see :func:`pipeline.video.workers.cores.codec_threads`.
        expected: expected number of frames, to warn if the disk has too little room; None: unknown.

    Raises:
        UserError: in the constructor, if PyAV or its libx264 is missing, or a value is out of range.
    """

    wants_picture = patient = True
    waits = False

    def __init__(
        self,
        path: Path,
        *,
        fps: float = DEFAULT_FPS,
        crf: int = 20,
        preset: str = "ultrafast",
        sound: Sound | None = None,
        threads: int | None = None,
        expected: int | None = None,
    ) -> None:
        super().__init__(path)
        self.written = path
        if preset not in PRESETS or not 0 <= crf <= 51:
            raise UserError(f"{path}: got preset {preset}, crf {crf}; allowed: {', '.join(PRESETS)}; crf 0 to 51")
        av = load_av()
        if av is None:
            raise UserError(f"{path}: H.264 needs PyAV: pip install av; or write masks with --masks DIR")
        try:
            av.codec.Codec("libx264", "w")
        except ValueError as error:
            raise UserError(
                f"{path}: this PyAV was built without libx264; use the wheel: pip install --force-reinstall av; "
                "or write masks with --masks DIR"
            ) from error
        self._av = av
        # 29.97 is 30000/1001; some files have impossible rates
        self._rate = Fraction(min(max(fps, 1e-3), 1e3)).limit_denominator(1001)
        self._frame_ticks = round(_TICKS / self._rate)
        # B frames would cost a third of the encoder's time for a tenth of the file
        self._options = {"preset": preset, "crf": str(crf), "bf": "0"}
        self._threads = threads
        self._sound = sound
        self._zero = 0.0  # timestamp at 0 s of the file
        self._expected = expected
        self._disk: _Disk | None = None
        self._container: Any = None
        self._stream: Any = None
        self._first: Picture | None = None
        self._frames = EncoderFrames(av, path)
        self._origin: float | None = None
        self._count = 0
        self._last = -1
        self._key: int | None = None  # when the last key frame was asked for

    def write(self, result: Result) -> None:
        assert result.picture is not None, "an overlay sink needs a loop that draws"
        picture = result.picture
        try:
            if self._first is None:
                self._begin(picture)
            frame = self._frames.frame(picture, result.name)
            frame.time_base = _TIME_BASE
            frame.pts = self._ticks(result.timestamp)
            if not self.of_use:
                self._zero = (result.timestamp or 0.0) - frame.pts / _TICKS
            due = self._key is None or frame.pts - self._key >= _KEY_S * _TICKS
            kinds = self._av.video.frame.PictureType
            frame.pict_type = kinds.I if due else kinds.NONE
            self._key = frame.pts if due else self._key
            frame.duration = self._frame_ticks  # otherwise the last frame has no duration
            self._container.mux(self._stream.encode(frame))
            assert self._disk is not None
            self._disk.check()
        except (self._av.error.FFmpegError, OSError) as error:
            raise self.unwritable(error) from error
        self.of_use = True

    def _begin(self, picture: Picture) -> None:
        self._first = picture
        height, width = picture.size
        if max(height, width) > _SIDE:
            raise UserError(
                f"{self.path}: frames of {width}x{height} (width x height); H.264 allows {_SIDE} per side; name a  "
                "folder for PNGs"
            )
        if self._expected:
            warn_of_little_room(self.path, frames=self._expected, size=picture.size)
        self._container = self._open()
        self._stream = self._container.add_stream("libx264", rate=self._rate, options=self._options)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        codec = self._stream.codec_context
        codec.time_base = _TIME_BASE
        codec.gop_size = max(1, round(_KEY_S * self._rate))
        codec.thread_count = self._threads or codec_threads()
        tags = picture.yuv or TAGGED
        codec.colorspace, codec.color_primaries, codec.color_trc = tags.matrix, tags.primaries, tags.transfer
        codec.color_range = 2 if tags.full_range else 1
        codec.sample_aspect_ratio = picture.aspect

    def _open(self) -> Any:
        """The container for the packets."""
        assert self.place is not None
        self._disk = _Disk(self.place)
        fragments = {"movflags": "+frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
        return self._av.open(self._disk, "w", format="mp4", options=fragments)

    def _ticks(self, timestamp: float | None) -> int:
        """Presentation time; it always rises, also if two times differ by less than a tick."""
        if timestamp is None:
            ticks = round(self._count * _TICKS / self._rate)
        else:
            self._origin = timestamp if self._origin is None else self._origin
            ticks = round((timestamp - self._origin) * _TICKS)
            if ticks - self._last >= _LONGEST:  # a camera was gone for hours
                ticks = self._last + self._frame_ticks
                self._origin = timestamp - ticks / _TICKS
        self._count += 1
        self._last = max(ticks, self._last + 1)
        return self._last

    def finish(self) -> None:
        assert self._container is not None, "not one frame was written, or it is finished"
        container, self._container = self._container, None
        assert self._disk is not None
        try:
            container.mux(self._stream.encode(None))
            container.close()
            self._disk.close()
            self._disk.check()
            try:
                self._index_first(self._sound)
            except self._av.error.FFmpegError as error:
                if self._sound is None:
                    raise
                self._sound.warn_lost(error)  # the pictures are kept
                self._index_first()
        except (self._av.error.FFmpegError, OSError) as error:
            raise self.unwritable(error) from error

    def _index_first(self, sound: Sound | None = None) -> None:
        """Rewrite the fragments as a plain MP4 with its index at the front; nothing is encoded again."""
        assert self.place is not None
        if not has_room_for_copy(self.place, path=self.path, sound=sound is not None):
            return
        prefix = temporary_prefix(f".{self.path.stem}", ".", "", self.place.parent)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=self.place.parent) as folder:
            plain = Path(folder) / self.path.name
            with (
                # the parameters are in the header; probing would decode frames and take half of the time
                self._av.open(str(self.place), format="mp4", options=_UNPROBED) as source,
                self._av.open(str(plain), "w", format="mp4", options={"movflags": "+faststart"}) as target,
            ):
                stream = source.streams.video[0]
                pictures = _moved(source.demux(stream), target.add_stream_from_template(stream))
                end = (self._last + self._frame_ticks) / _TICKS
                heard = sound.into(target, origin=self._zero, end=end) if sound else iter(())
                for packet in heapq.merge(pictures, heard, key=lambda packet: packet.dts * packet.time_base):
                    target.mux(packet)
            plain.chmod(0o644)
            plain.replace(self.place)

    def discard(self) -> None:
        if self._container is not None:
            with contextlib.suppress(self._av.error.FFmpegError, OSError):  # the file is removed anyway
                self._container.close()
            self._container = None
        if self._disk is not None:
            self._disk.close()
        super().discard()
