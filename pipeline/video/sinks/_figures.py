"""The figures beside the picture of a page: speed, ages and shares of classes, over the last seconds."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from pipeline.labels import LabelSpec
from pipeline.video.confidence import means_by_class
from pipeline.video.sinks._base import Result

WINDOW_S = 2.0


class _Mark(NamedTuple):
    """The times of one result."""

    at: float
    number: int
    infer_ms: float
    age_ms: float


@dataclass(frozen=True)
class PageSettings:
    """What the page of one source shows.

    Args:
        labels: names and colours of the classes.
        title: name of the source.
        engine: name of the engine.
        only: ids that the overlay shows; None: all classes.
        side: largest height or width of a picture.
        rate: largest number of pictures per second.
    """

    labels: LabelSpec
    title: str
    engine: str = ""
    only: Collection[int] | None = None
    side: int = 960
    rate: float = 15.0


class Figures:
    """Notes results at little cost, and computes figures only on request.

    Args:
        page: settings of the page.
        clock: seconds, the clock of ``Result.arrived``.
    """

    def __init__(self, page: PageSettings, *, clock: Callable[[], float] = time.perf_counter) -> None:
        labels, only = page.labels, page.only
        self._ids = [index for index in range(labels.num_classes) if only is None or index in only]
        self._about = {
            "title": page.title,
            "engine": page.engine,
            "rate": page.rate,
            "classes": [
                {"name": labels.names[index], "colour": "#{:02x}{:02x}{:02x}".format(*labels.palette[index])}
                for index in self._ids
            ],
            "rest": "ignored" if only is None else "everything else",
        }
        self._labels = labels
        self._clock = clock
        self._marks: deque[_Mark] = deque()
        self._newest: Result | None = None
        self._lock = threading.Lock()
        self.state = "waiting"

    def note(self, result: Result) -> None:
        """Remember a result."""
        now = self._clock()
        with self._lock:
            self._newest = result
            self._marks.append(_Mark(now, result.index, result.infer_ms, 1e3 * (now - result.arrived)))
            while self._marks[0].at < now - WINDOW_S:
                self._marks.popleft()
        self.state = "running"

    def about(self) -> dict[str, Any]:
        """Values that do not change: ``title``, ``engine``, ``rate``, ``classes`` (``name``, ``colour`` as #rrggbb) in
        order of ids, and ``rest``, the name for all other pixels."""
        return self._about

    def now(self) -> dict[str, Any]:
        """Values that change.

        Keys: ``state`` (waiting, running, ended or failed), ``frames`` until now, ``quiet_s`` (since the last one),
        ``fps`` over the last 2 s, medians ``infer_ms`` and ``age_ms`` over them (null when nothing came), ``dropped``,
        ``size`` [height, width] and ``time_s`` of the newest frame, ``shares`` of its pixels in order of ``classes``,
        and ``other``, the share of the others. With confidence also ``confidence``, the mean of the pixels of each
        class, 0..1, in order of ``classes``; null for a class without pixels.
        """
        now = self._clock()
        with self._lock:
            newest = self._newest
            last = self._marks[-1].at if self._marks else now
            if self.state not in ("waiting", "running"):
                now = last  # the figures at the end stay
            marks = [mark for mark in self._marks if mark.at >= now - WINDOW_S]
        if newest is None:
            return {"state": self.state, "frames": 0}
        seconds = marks[-1].at - marks[0].at if marks else 0.0
        shares = newest.pixels[self._ids] / newest.pixels.sum()
        sure = {}
        if newest.confidence_sums is not None:
            means = means_by_class(newest.confidence_sums, newest.pixels, self._labels)
            named = [means.get(self._labels.names[index]) for index in self._ids]
            sure = {"confidence": [None if mean is None else round(mean, 4) for mean in named]}
        return {
            "state": self.state,
            "frames": newest.index + 1,
            "quiet_s": round(now - last, 1),
            # frames that were not handed to this sink count, too; quiet_s shows when fewer than one per window come
            "fps": round((marks[-1].number - marks[0].number) / seconds, 1) if seconds > 0 else 0.0,
            "infer_ms": round(median(mark.infer_ms for mark in marks), 2) if marks else None,
            "age_ms": round(median(mark.age_ms for mark in marks), 1) if marks else None,
            "dropped": newest.dropped,
            "size": list(newest.size),
            "time_s": None if newest.timestamp is None else round(newest.timestamp, 2),
            "shares": [round(float(share), 4) for share in shares],
            "other": round(max(0.0, 1.0 - float(shares.sum())), 4),
            **sure,
        }
