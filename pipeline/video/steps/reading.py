"""Takes frames from their source."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.video.sources import Frame
from pipeline.video.workers.crew import Step
from pipeline.video.workers.flow import Queue
from pipeline.video.workers.meter import Meter


class Reading(Step[None, Frame | None]):
    """Takes frames from their source.

    Args:
        on_frame: called with every frame, before it enters the queue.
    """

    name = "read"

    def __init__(
        self,
        frames: Iterator[Frame],
        out: Queue[Frame],
        meter: Meter,
        *,
        waits: bool,
        on_frame: Callable[[Frame], None],
    ) -> None:
        self.waits = waits
        self._frames, self._out, self._meter = frames, out, meter
        self._on_frame = on_frame
        self._exhausted = False

    def ready(self) -> bool:
        return self._out.room > 0

    def take(self) -> None:
        pass

    def work(self, item: None) -> Frame | None:
        with self._meter.measure("read"):
            return next(self._frames, None)

    def give(self, done: Frame | None) -> None:
        if done is None:
            self._exhausted = True
            return
        self._on_frame(done)
        if not self._out.stopped:
            self._out.put(done)

    def over(self) -> bool:
        return self._exhausted or self._out.stopped

    def end(self) -> None:
        self._out.end()
