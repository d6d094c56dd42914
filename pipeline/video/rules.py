"""Rules of events: when a situation begins and when it is over, from the times and shares of frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.video.pixels import Counts

_ROUNDING = 1e-6  # seconds: times are sums of floats


@dataclass(frozen=True)
class Span:
    """The length of a clip.

    Attributes:
        before: seconds before the situation began.
        after: seconds after it was over.
        longest: most seconds of a clip.
    """

    before: float = 5.0
    after: float = 5.0
    longest: float = 600.0


@dataclass(frozen=True)
class Rule:
    """A situation: classes cover more, or less, than a share of a zone or of the whole frame.

    Attributes:
        name: unique among the rules of a file.
        classes, ids: names and train ids; their shares are added.
        zone: name of a zone; None: the whole frame.
        share: 0..1; the situation is there if the classes cover more (``above``) or less than that.
        above: True: more than ``share``; False: less.
        until: 0..1; an event lasts while the classes cover more (or less) than that. It is at most ``share`` if
            ``above``, otherwise at least ``share``.
        seconds: how long the situation must hold before an event begins; 0: one frame is enough.
        pause: seconds without the situation until the event is over, so that one situation is one event.
        clip: length of the clip of an event; None: no clip.
        url: address that gets the lines of events; None: none.
    """

    name: str
    classes: tuple[str, ...]
    ids: tuple[int, ...]
    zone: str | None
    share: float
    above: bool
    until: float
    seconds: float = 1.0
    pause: float = 1.0
    clip: Span | None = Span()
    url: str | None = None

    def share_of(self, pixels: Counts, zone_pixels: Mapping[str, Counts]) -> float:
        """Share of the pixels of the zone, or of the frame, that the classes cover, 0..1.

        Args:
            pixels: (256,) of every id in the frame.
            zone_pixels: the same in each zone, by its name.
        """
        counts = pixels if self.zone is None else zone_pixels[self.zone]
        total = int(counts.sum())
        return int(counts[list(self.ids)].sum()) / total if total else 0.0


class Moment(NamedTuple):
    """The time of a frame.

    Attributes:
        seconds: since the first frame of the run; never falls.
        time_s: timestamp of the source; None if unknown.
    """

    seconds: float
    time_s: float | None


class Clock:
    """Seconds since the first frame, by the source's timestamps. If they fall (joined recordings), no time passes.

    Args:
        pace: frame rate for frames without a timestamp; None: such frames are live, and have the time of their arrival.
    """

    def __init__(self, *, pace: float | None = None) -> None:
        self._pace = pace
        self._last: tuple[float | None, float] | None = None
        self._seconds = 0.0

    def at(self, timestamp: float | None, arrived: float) -> Moment:
        """The moment of the next frame.

        Args:
            timestamp: seconds, by the source.
            arrived: seconds, by ``time.perf_counter``.
        """
        if self._last is not None:
            before, arrived_before = self._last
            if timestamp is not None and before is not None:
                step = timestamp - before
            else:
                step = 1 / self._pace if self._pace else arrived - arrived_before
            self._seconds += max(0.0, step)
        self._last = timestamp, arrived
        return Moment(self._seconds, timestamp)


@dataclass(frozen=True)
class Change:
    """An event begins, or is over.

    Attributes:
        begins: True: the event begins; False: it is over.
        now: the frame at which this is known.
        since: the first frame of the situation.
        until: the last frame of it so far.
        share: of ``now``, 0..1.
        peak: the largest share of the situation so far; the smallest one if the rule has ``below``.
    """

    begins: bool
    now: Moment
    since: Moment
    until: Moment
    share: float
    peak: float


class Watch:
    """Applies a rule to one frame after the other."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._since: Moment | None = None  # the situation holds since then
        self._until = self._now = Moment(0.0, None)
        self._active = False
        self._peak = self._share = 0.0

    def see(self, now: Moment, share: float) -> Change | None:
        """The next frame. Returns the change that it causes, or None.

        Args:
            now: its time, not before that of the last frame.
            share: 0..1, see :meth:`Rule.share_of`.
        """
        self._now, self._share = now, share
        rule = self.rule
        limit = rule.until if self._active else rule.share
        if share > limit if rule.above else share < limit:
            if self._since is None:
                self._since, self._peak = now, share
            self._until, self._peak = now, max(self._peak, share) if rule.above else min(self._peak, share)
            if not self._active and now.seconds - self._since.seconds >= rule.seconds - _ROUNDING:
                self._active = True
                return self._change(begins=True)
        elif not self._active:
            self._since = None
        elif now.seconds - self._until.seconds >= rule.pause - _ROUNDING:
            return self.end()
        return None

    def end(self) -> Change | None:
        """End the event, because there are no more frames; None if there is no event."""
        if not self._active:
            return None
        change = self._change(begins=False)
        self._active, self._since = False, None
        return change

    def _change(self, *, begins: bool) -> Change:
        assert self._since is not None
        return Change(begins, self._now, self._since, self._until, self._share, self._peak)
