"""Times of frames: the rate of a stream, its start, and one clock that only rises."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.video.sources._jumps import clock_jumps

log = logging.getLogger(__name__)

#: Frame rate of a stream that has none.
USUAL_FPS = 25.0
#: A jump of this many seconds, forwards or back, is a problem of the recording and not a pause.
LEAP_S = 10.0
#: The same in frames, for time lapses, whose frames are many seconds apart.
_LEAP_FRAMES = 10
_REORDERED = 16  # largest distance, in frames, between the order of storage and the order of display
_NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS
#: A higher rate is mostly the tick of a clock: 60000 in DV, 1000 in screen recordings.
HIGHEST_FPS = 300.0
_MOST_SLACK_S = 0.02
_SAME_START_S = 1e-3
_MICROSECONDS = 1_000_000  # FFmpeg's unit of a container's times
_TRANSPORT = "mpegts"
_TRANSPORT_PACKET = 188  # bytes; a frame takes one packet or more
_LEAST_BYTES = 8  # of a frame, in any container


@dataclass(frozen=True)
class Timing:
    """How the times of a stream follow from its timestamps and its rate.

    Attributes:
        fps: its usual frame rate; None if it has none.
        assumed: whether the rate is a guess of FFmpeg, because neither the file nor the stream has one.
        source: where times come from: ``"pts"``; ``"dts"``, for files without presentation times; ``"none"``: from the
            rate.
        origin: timestamp of 0 s, in the stream's unit; None: that of the first frame.
    """

    fps: float | None
    assumed: bool
    source: str
    origin: int | None

    @property
    def step(self) -> float:
        """Seconds from one frame to the next, if there are no timestamps."""
        return 1 / (self.fps or USUAL_FPS)

    @property
    def leap(self) -> float:
        """A gap of so many seconds or more is a jump of the clock."""
        return leap_of(self.step)

    def from_first(self, time: float, container: Any, stream: Any) -> Timing:
        """The timing, if the first frame of the file has the time ``time``.

        AVI counts packets. If frames are not stored in the order of display, its first frame seems to be some frames
        late.
        """
        late = 0 < time <= _REORDERED * self.step and stream.codec_context.has_b_frames
        if container.format.name != "avi" or not late or self.origin is None:
            return self
        return replace(self, origin=self.origin + round(time / float(stream.time_base)))

    def stamp(self, frame: Any, *, origin: int | None, unit: Any) -> float | None:
        """Time in seconds of a frame by its timestamp; None if it has none."""
        ticks = {"pts": frame.pts, "dts": frame.dts}.get(self.source)
        return None if ticks is None or origin is None else float((ticks - origin) * unit.numerator / unit.denominator)


def leap_of(step: float) -> float:
    """Seconds of a gap that is a jump of the clock, if frames are usually ``step`` seconds apart."""
    return max(LEAP_S, _LEAP_FRAMES * step)


def slack_of(step: float) -> float:
    """Seconds by which a frame may begin before a time that the user gives, and is still included: half a frame, at
    most 20 ms. Both the timestamps and the times of users are rounded."""
    return min(step / 2, _MOST_SLACK_S) + 1e-6


def timing_of(container: Any, stream: Any, *, fps: float | None = None) -> Timing:
    """The timing of a stream of PyAV.

    Args:
        fps: the rate that the user gives; it replaces the timestamps.
    """
    raw = is_raw(container)
    return Timing(
        fps=fps or rate_of(container, stream),
        assumed=fps is None and raw and not stream.codec_context.framerate,
        source="none" if fps or raw else "pts",
        origin=_origin_of(container, stream),
    )


def is_raw(container: Any) -> bool:
    """Whether it is a raw stream, without a container and without timestamps (.h264, .hevc, .mjpeg)."""
    return bool(int(container.format.flags) & _NO_TIMESTAMPS)


def rate_of(container: Any, stream: Any) -> float | None:
    """The frame rate of a stream; None if it is unknown.

    FFmpeg has two rates. The mean rate follows from durations and timestamps, so it is wrong if these are missing or
    wrong. The stream's own rate comes from the codec, or from the usual distance of timestamps.
    """
    own, mean = (float(rate) if rate else None for rate in (stream.guessed_rate, stream.average_rate))
    if own is None or mean is None or is_raw(container):
        return own or mean
    plausible = [rate for rate in (own, mean) if rate <= HIGHEST_FPS]
    return plausible[0] if plausible else min(own, mean)


def expected_frames(container: Any, stream: Any, *, path: Path | None = None) -> int | None:
    """The number of frames by the duration, for progress only. None if it is unknown or impossible: the file has too
    few bytes for it, or its clock jumps.

    Args:
        path: of a local file; None: what is read is not a file on this machine.
    """
    if path is not None and set(container.format.name.split(",")) & {_TRANSPORT, "mpeg"} and clock_jumps(path):
        return None
    if stream.duration is not None and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        seconds = container.duration / _MICROSECONDS
    else:
        return None
    frames = round(seconds * (rate_of(container, stream) or 0))
    least = _TRANSPORT_PACKET if container.format.name == _TRANSPORT else _LEAST_BYTES
    return None if 0 < container.size < frames * least else frames or None


def _origin_of(container: Any, stream: Any) -> int | None:
    """The start of the file, in the stream's unit: sound may begin before the pictures."""
    start: int | None = stream.start_time
    if start is None or container.start_time is None or not stream.time_base:
        return start
    later = float(start * stream.time_base) - max(
        container.start_time / _MICROSECONDS, 0.0
    )  # sound may begin below zero
    return start - round(later / float(stream.time_base)) if later > _SAME_START_S else start


class Clock:
    """Times of the frames of one source. They always rise, also if the timestamps do not:

    - a jump of ``leap`` seconds or more, forwards or back, counts as one frame, and later times follow from it;
    - a timestamp that is missing, or not later than the one before, is replaced by one frame after the last time;
    - a timestamp that rises but is a few frames before the last time counts as half a frame, until it is later.

    The first jump and the first timestamp that does not rise are reported in one warning each, with their time.

    Args:
        name: of the source, for warnings.
        step: seconds of a frame.
        leap: a jump of so many seconds or more counts as one frame.

    Attributes:
        leapt: time of the first frame after a jump; from there on times differ from those of the file. None: no jump
            until now.
    """

    def __init__(self, name: str, *, step: float, leap: float) -> None:
        self._name, self._step, self._leap = name, step, leap
        self._shift = 0.0
        self._warned: set[str] = set()
        self._stamp = -math.inf
        self.now: float | None = None
        self.leapt: float | None = None

    def at(self, stamp: float | None) -> float:
        """The time of the next frame, from its time in the file (None: it has none)."""
        last = self.now
        self.now = time = stamp or 0.0 if last is None else self._after(last, stamp)
        self._stamp = self._stamp if stamp is None else stamp
        return time

    def _after(self, last: float, stamp: float | None) -> float:
        follows = last + self._step
        if stamp is None:
            return follows
        time = stamp + self._shift
        if abs(time - last) >= self._leap:
            self._warn("jump", f"timestamps jump by {time - last:+.1f} s at {last:.2f} s; the gap counts as one frame")
            self._shift += follows - time
            self.leapt = follows if self.leapt is None else self.leapt
            return follows
        if time <= last:
            rate = f"{1 / self._step:g} fps; --fps sets another rate"
            self._warn("fall", f"timestamps do not rise at {last:.2f} s; times there follow from {rate}")
            is_early = stamp > self._stamp and last - time < _REORDERED * self._step
            return last + self._step / 2 if is_early else follows
        return time

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("%s: %s", self._name, text)
