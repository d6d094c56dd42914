"""The choice of frames of a source."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.errors import UserError
from pipeline.video.sources import Frame, Source
from pipeline.video.sources._timing import USUAL_FPS, Clock, leap_of, slack_of


class NoFramesError(UserError):
    """A source, or the chosen part of it, has no frames."""


@dataclass(frozen=True)
class Selection:
    """A part of a source.

    Args:
        start: seconds to skip; videos only. The first frame may begin half a frame earlier.
        duration: seconds to take; None: to the end.
        every: take every N-th frame.
        limit: largest number of frames; None: all.

    Raises:
        UserError: a value is out of range.
    """

    start: float = 0.0
    duration: float | None = None
    every: int = 1
    limit: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1e9 or (self.duration is not None and not 0 < self.duration < 1e9):
            raise UserError(f"start {self.start:g}, duration {self.duration}: seconds; start from 0, duration above 0")
        if self.every < 1 or (self.limit is not None and self.limit < 1):
            raise UserError(f"every {self.every}, limit {self.limit}: whole numbers from 1")

    def frames(self, source: Source) -> Iterator[Frame]:
        """The chosen frames. If a reader knows no times, they follow from the frame rate. Times always rise, so that
        all sinks agree, see :class:`pipeline.video.sources._timing.Clock`.

        Raises:
            NoFramesError: no frame was chosen.
            UserError: times are chosen for images or for a live source.
        """
        if not source.is_video and (self.start or self.duration is not None):
            raise UserError(f"{source.name}: images have no time; choose them by --every, --limit or a pattern")
        if source.live and self.start:
            raise UserError(f"{source.name}: is live, it starts now; leave --start out")
        taken = 0
        step = 1 / (source.fps or USUAL_FPS)
        # a live source may be silent for minutes; its times are those of this machine
        clock = Clock(source.name, step=step, leap=math.inf if source.live else leap_of(step))
        end = math.inf
        if self.duration is not None:  # as at the start, so that consecutive parts share no frame
            end = self.start + self.duration - slack_of(step)
        for number, frame in enumerate(source.frames(start=self.start)):
            time = frame.timestamp
            if time is None and source.fps:
                time = self.start + number / source.fps
            time = None if time is None else clock.at(time)
            if time is not None and time >= end:
                break
            if number % self.every:
                continue
            yield replace(frame, timestamp=time)
            taken += 1
            if taken == self.limit:
                break
        if not taken:
            raise NoFramesError(f"{source.name}: has no frames {self._described()}; choose another part")

    def _described(self) -> str:
        upto = "" if self.duration is None else f" for {self.duration:g} s"
        return f"from {self.start:g} s on{upto}"

    def expected(self, source: Source) -> int | None:
        """The expected number of frames, for progress; None if unknown."""
        count = source.count
        if source.fps:
            left = None if count is None else max(0, count - round(self.start * source.fps))
            wanted = None if self.duration is None else round(self.duration * source.fps)
            count = min((number for number in (left, wanted) if number is not None), default=None)
        if count is not None:
            count = -(-count // self.every)
        return min((number for number in (count, self.limit) if number is not None), default=None)
