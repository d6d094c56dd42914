"""Hands results to a sink."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.video.sinks import Result, Sink, Stop
from pipeline.video.workers.crew import Step
from pipeline.video.workers.flow import Queue
from pipeline.video.workers.meter import Meter


class Writing(Step[Result, None]):
    """Hands results to a sink.

    Args:
        stop: called when the sink raises :class:`Stop`; the other sinks still get the frames that were read.
    """

    name = "write"

    def __init__(self, sink: Sink, results: Queue[Result], meter: Meter, *, stop: Callable[[], None]) -> None:
        self.waits = sink.waits or not sink.patient
        self._sink, self._results, self._meter, self._stop = sink, results, meter, stop
        self._stopped = False

    def ready(self) -> bool:
        return len(self._results) > 0

    def take(self) -> Result:
        return self._results.take()

    def work(self, item: Result) -> None:
        if self._stopped:
            return
        try:
            with self._meter.measure("write"):
                self._sink.write(item)
        except Stop:
            self._stopped = True
            self._stop()
            return
        if self._sink.patient:
            self._meter.add("age", time.perf_counter() - item.arrived)

    def give(self, done: None) -> None:
        pass

    def over(self) -> bool:
        return self._results.finished

    def end(self) -> None:
        self._results.close()
