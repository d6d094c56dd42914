"""Clips of events: which frames belong to which clip, and the files."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.video._av import load_av
from pipeline.video.rules import Rule, Span
from pipeline.video.sinks._base import Result
from pipeline.video.sinks._recorder import ROUNDING, ClipFile, Piece, Recorder

_NAME = 40  # characters of a rule's name in the names of its clips
_WAITED_S = 60.0  # seconds of a situation before its event that are kept in memory, at most


@dataclass
class Clip:
    """A clip that is being written. Times are seconds of the run.

    Attributes:
        file: its file.
        rule, span: name of the rule of its events, and the length of its clips.
        events: ids of its events, and the times at which their situations began.
        start: time at which it begins.
        began: time at which its first event began.
        limit: time at which it ends at the latest.
        stop: time at which it ends, because its event is over; None: the event is not over.
        cut: whether it ended at its limit.
        done: the completion of the file.
    """

    file: ClipFile
    rule: str
    span: Span
    events: dict[str, float]
    start: float
    began: float
    limit: float
    stop: float | None = None
    cut: bool = False
    done: Future[None] = field(default_factory=Future)


class Clips:
    """Records results and writes clips of events. If an event begins before the clip of the last event of its rule has
    ended, that clip becomes longer. Events of different rules have separate clips.

    Args:
        folder: for the clips; it must exist when the first event begins.
        rules: those without a clip are ignored.
        options: of the encoder, see :class:`pipeline.video.sinks.H264Sink`.

    Raises:
        UserError: PyAV or its libx264 is missing.
    """

    def __init__(self, folder: Path, rules: Sequence[Rule], **options: Any) -> None:
        if load_av() is None:
            raise UserError('clips of events need PyAV: pip install av; or write "clip": false into every event')
        spans = [(rule.clip, rule.seconds) for rule in rules if rule.clip is not None]
        keep = max(span.before + min(seconds, _WAITED_S) for span, seconds in spans)
        self._folder = folder
        self._recorder = Recorder(folder, keep=keep, **options)
        self._open: list[Clip] = []
        self._completing: list[Clip] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="event-clips")  # long clips take long to complete

    @property
    def held(self) -> int:
        """Bytes that are kept in memory for the next event."""
        return self._recorder.held

    def record(self, result: Result, seconds: float) -> None:
        """Encode a frame, and add the output of the encoder to the clips.

        Args:
            seconds: time of the frame, since the beginning of the run.
        """
        self._add(self._recorder.record(result, seconds))

    def begin(self, rule: Rule, event: str, *, since: float, now: float) -> None:
        """An event begins at ``now``; its situation began at ``since``."""
        span = rule.clip
        assert span is not None
        for clip in self._open:
            runs = clip.stop is not None and now <= clip.stop + ROUNDING
            if clip.rule == rule.name and runs and now - clip.began < span.longest:
                clip.events[event], clip.stop, clip.limit = since, None, now + span.longest
                return
        file = ClipFile(self._folder, _file_name(rule.name))
        file.__enter__()
        clip = Clip(file, rule.name, span, {event: since}, since - span.before, began=now, limit=now + span.longest)
        self._open.append(clip)
        self._start(clip)

    def end(self, rule: Rule, *, until: float) -> None:
        """The event of a rule is over; ``until`` is the last time of its situation."""
        for clip in self._open:
            if clip.rule == rule.name and clip.stop is None:
                clip.stop = until + clip.span.after

    def completed(self) -> list[Clip]:
        """Clips that were completed since the last call. Raises UserError if one could not be written."""
        done = [clip for clip in self._completing if clip.done.done()]
        for clip in done:
            self._completing.remove(clip)
            clip.done.result()
        return done

    def finish(self) -> None:
        """Complete all clips. Raises UserError if one could not be written."""
        self._add(self._recorder.flush())
        for clip in list(self._open):
            self._complete(clip)
        self._pool.shutdown()

    def close(self, error: BaseException | None) -> None:
        """Close all files. Clips that are incomplete because of ``error`` are kept as partial files."""
        self._pool.shutdown()
        for clip in self._open:
            clip.file.__exit__(None if error is None else type(error), error, None)
        self._open.clear()
        self._recorder.close()

    def _add(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            for clip in list(self._open):
                if clip.stop is not None and piece.seconds > clip.stop + ROUNDING:
                    self._complete(clip)
                elif piece.seconds > clip.limit + ROUNDING:
                    clip.cut = True
                    self._complete(clip)
                elif clip.file.first is None:
                    self._start(clip, last=piece.pts)
                else:
                    clip.file.add(piece, self._recorder.stream)

    def _start(self, clip: Clip, last: float = math.inf) -> None:
        """Write the recorded packets, if the encoder has returned the first frame of the clip."""
        if self._recorder.newest >= clip.start - ROUNDING:
            for piece in self._recorder.since(clip.start):
                if piece.pts <= last:
                    clip.file.add(piece, self._recorder.stream)

    def _complete(self, clip: Clip) -> None:
        self._open.remove(clip)
        self._completing.append(clip)
        clip.done = self._pool.submit(clip.file.__exit__, None, None, None)


def _file_name(rule: str) -> str:
    """A rule's name without characters that some file systems do not allow.

    Example:
        >>> _file_name("../car in lane?"), _file_name("...")
        ('car-in-lane', 'event')
    """
    return re.sub(r"[^\w.-]+", "-", rule).strip("-.")[:_NAME] or "event"
