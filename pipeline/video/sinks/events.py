"""Events: a line of JSON at the beginning and at the end of a situation, a clip of it, and a call of an address."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.errors import UserError
from pipeline.video.rules import Change, Clock, Moment, Rule, Watch
from pipeline.video.sinks._base import Result
from pipeline.video.sinks._caller import Caller
from pipeline.video.sinks._clips import Clip, Clips

LINES = "events.jsonl"
_LAST_S = 10.0  # seconds to finish the remaining calls after the run


@dataclass
class _Count:
    """Events of a rule, for the summary."""

    events: int = 0
    seconds: float = 0.0
    clips: int = 0


class EventSink:
    """Applies rules to results. Lines are appended to ``events.jsonl`` in a folder, and clips are in the same folder.

    Every line has the keys ``event`` (the rule's name), ``id`` (unique) and ``state``:

    - ``begin`` and ``end``: ``source``, ``class`` (a list), ``zone`` (null: the frame), ``above`` or ``below``;
      ``index``, ``frame``, ``time_s`` and ``utc`` (of its arrival) of the frame at which this is known, and the
      ``share`` in it; ``since_s``, the time of the first frame of the situation. An end also has ``until_s``, the time
      of the last frame of the situation, ``seconds`` between both, ``peak`` (the largest share, or the smallest one
      with ``below``), and ``cause``: ``over`` or ``end of run``. Times are those of the source, null if it has none.
    - ``clip``: the file ``clip`` in the folder is complete. ``before_s`` is the part of it before the situation
      (negative: the clip begins later), ``seconds`` and ``frames`` are its length, and ``cut`` is true if the clip
      reached its longest length before the event was over.

    Attributes:
        lines: the file of lines.

    Args:
        folder: created if it does not exist; its files are kept.
        rules: their zones must be in the results.
        source: name of the source.
        pace: frame rate for frames without a timestamp; None: such frames are live, and have the time of their arrival.
        run: first part of the ids of events; None: random.
        options: for clips: fps, crf and preset of :class:`pipeline.video.sinks.H264Sink`.

    Raises:
        UserError: in the constructor, if clips are wanted and PyAV or its libx264 is missing; on entering and writing,
            if the folder cannot be written. Calls that fail are only counted.
    """

    patient = True
    waits = False

    def __init__(
        self,
        folder: Path,
        rules: Sequence[Rule],
        *,
        source: str,
        pace: float | None = None,
        run: str | None = None,
        **options: Any,
    ) -> None:
        self.written: Path | None = folder
        self.lines = folder / LINES
        self._folder, self._source, self._run = folder, source, run or secrets.token_hex(4)
        self._watches = [Watch(rule) for rule in rules]
        self._clock = Clock(pace=pace)
        wanted = any(rule.clip is not None for rule in rules)
        self._clips = Clips(folder, rules, **options) if wanted else None
        self.wants_picture = wanted
        self._callers = {rule.url: Caller(rule.url) for rule in rules if rule.url is not None}
        self._rules = {rule.name: rule for rule in rules}
        self._counts = {rule.name: _Count() for rule in rules}
        self._events = 0
        self._current: dict[str, str] = {}  # id of the last event, by the rule's name
        self._file = -1  # a file descriptor
        self._is_new = False
        self._last: Result | None = None

    def __enter__(self) -> EventSink:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._is_new = not self.lines.exists()
            self._file = os.open(self.lines, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._unwritable(error) from error
        for caller in self._callers.values():
            caller.start()
        return self

    def write(self, result: Result) -> None:
        self._last = result
        now = self._clock.at(result.timestamp, result.arrived)
        if self._clips is not None:
            self._clips.record(result, now.seconds)
        for watch in self._watches:
            change = watch.see(now, watch.rule.share_of(result.pixels, result.zone_pixels))
            if change is not None:
                self._report(watch.rule, change, result, cause="over")
        self._report_clips()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure: BaseException | None = None
        try:
            self._complete()
        except BaseException as problem:
            failure = problem
            if kind is None:  # otherwise the first error is reported
                raise
        finally:
            if self._clips is not None:
                self._clips.close(failure)
            until = time.monotonic() + _LAST_S
            for caller in self._callers.values():
                caller.close(max(0.0, until - time.monotonic()))
            self._close(unused=kind is not None and self._last is None)

    def _complete(self) -> None:
        """End all events, and write their last lines and clips."""
        if self._last is not None:
            for watch in self._watches:
                change = watch.end()
                if change is not None:
                    self._report(watch.rule, change, self._last, cause="end of run")
        if self._clips is not None:
            self._clips.finish()
            self._report_clips()

    def _close(self, *, unused: bool) -> None:
        if self._file < 0:
            return
        os.close(self._file)
        self._file = -1
        if unused and self._is_new:
            with contextlib.suppress(OSError):  # another program uses the folder
                self.lines.unlink()
                self._folder.rmdir()

    def _report(self, rule: Rule, change: Change, result: Result, *, cause: str) -> None:
        count = self._counts[rule.name]
        if change.begins:
            self._events += 1
            count.events += 1
            self._current[rule.name] = f"{self._run}-{self._events}"
        event = self._current[rule.name]
        line: dict[str, Any] = {
            "event": rule.name,
            "id": event,
            "state": "begin" if change.begins else "end",
            "source": self._source,
            "class": list(rule.classes),
            "zone": rule.zone,
            "above" if rule.above else "below": rule.share,
            "index": result.index,
            "frame": result.name,
            "time_s": _rounded(change.now),
            "utc": _utc(result.arrived),
            "share": round(change.share, 6),
            "since_s": _rounded(change.since),
        }
        if not change.begins:
            seconds = change.until.seconds - change.since.seconds
            count.seconds += seconds
            line |= {"until_s": _rounded(change.until), "seconds": round(seconds, 6), "peak": round(change.peak, 6)}
            line["cause"] = cause
        self._put(rule, line)
        if rule.clip is None or self._clips is None:
            return
        if change.begins:
            self._clips.begin(rule, event, since=change.since.seconds, now=change.now.seconds)
        else:
            self._clips.end(rule, until=change.until.seconds)

    def _report_clips(self) -> None:
        for clip in self._clips.completed() if self._clips is not None else ():
            rule = self._rules[clip.rule]
            self._counts[rule.name].clips += 1
            for event, since in clip.events.items():
                self._put(rule, {"event": rule.name, "id": event, "state": "clip", **_about(clip, since)})

    def _put(self, rule: Rule, line: dict[str, Any]) -> None:
        """Append a whole line or nothing, and call the rule's address."""
        data = json.dumps(line, allow_nan=False).encode()
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, data + b"\n") <= len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
            raise self._unwritable(error) from error
        if rule.url is not None:
            self._callers[rule.url].put(data)

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"{self.lines}: cannot be written ({error.strerror}); free the place or name another folder: "
            "--event-dir DIR"
        )

    def to_meta(self) -> dict[str, Any]:
        """Plain values for JSON: the events of every rule, and the calls of every address."""
        return {
            "rules": {
                name: {"events": count.events, "seconds": round(count.seconds, 3), "clips": count.clips}
                for name, count in self._counts.items()
            },
            "calls": [
                {"address": c.address, "delivered": c.delivered, "failed": c.failed, "reason": c.reason}
                for c in self._callers.values()
            ],
        }

    def describe(self) -> str:
        """The same as text."""
        lines = [
            f"events of {name}: {count.events}, {count.seconds:.1f} s in all, {count.clips} clips"
            for name, count in self._counts.items()
        ]
        for caller in self._callers.values():
            lost = f", {caller.failed} NOT delivered, the last because of: {caller.reason}" if caller.failed else ""
            lines.append(f"calls of {caller.address}: {caller.delivered} delivered{lost}")
        return "\n".join(lines)


def _rounded(moment: Moment) -> float | None:
    return None if moment.time_s is None else round(moment.time_s, 6)


def _utc(arrived: float) -> str:
    """Wall time of a value of ``time.perf_counter``, as ISO 8601."""
    then = datetime.fromtimestamp(time.time() - (time.perf_counter() - arrived), timezone.utc)
    return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _about(clip: Clip, since: float) -> dict[str, Any]:
    assert clip.file.first is not None
    return {
        "clip": clip.file.path.name,
        "before_s": round(since - clip.file.first.seconds, 6),
        "seconds": round(clip.file.seconds - clip.file.first.seconds, 6),
        "frames": clip.file.frames,
        "cut": clip.cut,
    }
