"""One run over a source: its steps, the queues between them, and its end.

Queues are short, so fast steps wait for slow ones. A live source does not wait: its newest frame replaces older ones.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from threading import Event
from typing import Any

from pipeline.labels import LabelSpec
from pipeline.runtimes import Engine
from pipeline.video.confidence import mean_of, means_by_class
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.pixels import class_shares
from pipeline.video.selection import Selection
from pipeline.video.sinks import ConfidenceReader, HurriedSink, MainThreadSink, Result, Sink, Stop
from pipeline.video.smoothing import Smoother
from pipeline.video.sources import Frame, Source
from pipeline.video.steps import Drawing, Inferring, Place, Reading, Writing
from pipeline.video.summary import Depth, Summary
from pipeline.video.view import Looking
from pipeline.video.workers.cores import usable_cores
from pipeline.video.workers.crew import Crew, Step
from pipeline.video.workers.flow import Queue
from pipeline.video.workers.meter import Meter
from pipeline.video.zones import Zones, zone_shares

STEPS = ("read", "resize", "turn", "infer", "draw", "write", "age")
#: Most frames that a worker handles in a row in one step, and that can wait before the next step. With more frames the
#: data of a step stay longer in the cache of its core, until the frames fill the caches that the cores share.
_BURST = 16
_FEWEST = 4  # frames that can wait before each step, of any size
_WAITING_BYTES = 22_000_000  # of frames before each step
_LOOK_S = 0.01  # between checks of the main thread for a result to show
_TELL_S = 0.1  # between reports of progress if nothing is shown
_PATIENCE_S = 2.0  # for a reader that hangs in a driver when everything else has ended


class Run:
    """One run.

    Args:
        engines_wait: the engines do not use the cores, because they use a GPU or wait for their turn.
        until: ends the run like Ctrl-C when another thread sets it.

    Attributes:
        ended: whether Ctrl-C or a sink (a closed window) ended the run.
        interrupted: whether Ctrl-C ended it.
    """

    def __init__(
        self,
        source: Source,
        engines: Sequence[Engine],
        sinks: Sequence[Sink],
        *,
        overlay: Overlay | None,
        smoother: Smoother | None,
        zones: Zones | None,
        looking: Looking,
        selection: Selection,
        engines_wait: bool,
        until: Event,
    ) -> None:
        self._until = until
        self.ended = self.interrupted = False
        self._reported = 0  # frames, as progress
        self._source = source
        self._meter = meter = Meter(STEPS)
        live, batch = source.live, engines[0].batches[1]
        self._here = [sink for sink in sinks if isinstance(sink, MainThreadSink)]
        self._hurried = [sink for sink in sinks if isinstance(sink, HurriedSink)]
        threaded = [sink for sink in sinks if not isinstance(sink, MainThreadSink)]

        self._shown: Queue[Result] = Queue(1, newest=True)
        few = 0 if live else _FEWEST
        self._read: Queue[Frame] = Queue(batch + few if few else 1, newest=live)
        self._seen: Queue[Place] = Queue(batch * len(engines) + few)
        self._written: list[Queue[Result]] = [
            Queue(few or 1) if sink.patient else Queue(1, newest=True) for sink in threaded
        ]
        self._largest = 0  # bytes of a frame
        # queues that hold more frames if frames are small, and the least number for each
        self._elastic: list[tuple[Queue[Any], int]] = []
        if not live:
            patient = [(queue, 0) for queue, sink in zip(self._written, threaded, strict=True) if sink.patient]
            self._elastic = [(self._read, batch), (self._seen, batch * len(engines)), *patient]
        source.alone = not any(sink.wants_picture for sink in sinks)
        self._frames = iter(selection.frames(source))
        # a core stays free for the other steps if reading blocks
        waits = source.waits or live or usable_cores() == 1
        self._reading = Reading(self._frames, self._read, meter, waits=waits, on_frame=self._size_up)
        self._confident = engines[0].gives_confidence and (
            any(isinstance(sink, ConfidenceReader) and sink.reads_confidence for sink in sinks)
            or (overlay is not None and overlay.shows_confidence)
        )
        inferring = Inferring(
            engines,
            self._read,
            self._seen,
            meter,
            looking=looking,
            full_batches=not live,
            waits=engines_wait,
            confident=self._confident,
        )
        self._drawing = Drawing(
            self._seen,
            [*self._written, *([self._shown] if self._here else [])],
            meter,
            overlay=overlay,
            smoother=smoother,
            zones=zones,
            dropped=lambda: self.dropped,
            is_last=not threaded,
        )
        writing = [
            Writing(sink, results, meter, stop=self._stop)
            for sink, results in zip(threaded, self._written, strict=True)
        ]
        steps: list[Step[Any, Any]] = [self._reading, inferring, self._drawing, *writing]
        self._crew = Crew(steps, workers=usable_cores(), burst=1 if live else _BURST, failed=self._wind_down)

    def go(self, progress: Callable[[int], None]) -> None:
        """Start the workers, show results in this thread, and return when everything is written."""
        try:
            self._crew.start()
            self._until_done(lambda: self._show(progress))
        finally:  # if a sink of this thread raises, the others end first
            self._until_done(self._finish)
        if self.ended and not self._drawing.frames:
            raise KeyboardInterrupt
        if self._crew.error:
            raise self._crew.error

    def _until_done(self, work: Callable[[], object]) -> None:
        """Repeat ``work`` until it returns. Ctrl-C or a closed window ends the reading; the frames that were read are
        processed."""
        while True:
            try:
                if self.ended:
                    self._wind_down()
                work()
                return
            except (KeyboardInterrupt, Stop) as cause:
                self.interrupted = self.interrupted or isinstance(cause, KeyboardInterrupt)
                self.ended = True

    def _finish(self) -> None:
        self._crew.call_off()
        self._wind_down()  # nothing more is shown; after an error no step waits for another frame
        self._crew.wait()
        self._crew.join(_PATIENCE_S)
        if not self._reading.busy and isinstance(self._frames, Generator):
            with suppress(Exception):  # all results are written
                self._frames.close()

    def _stop(self) -> None:
        self.ended = True
        self._wind_down()

    def _wind_down(self) -> None:
        self._crew.change(self._read.end)
        self._source.stop()
        for sink in self._hurried:
            sink.hurry()

    def _show(self, progress: Callable[[int], None]) -> None:
        self._crew.begin()  # Ctrl-C ends the run cleanly from here on
        while not self._crew.wait(_LOOK_S if self._here else _TELL_S):
            if self._until.is_set() and not self.ended:
                raise KeyboardInterrupt
            self._show_newest(progress)
            for sink in self._here:
                sink.poll()
        self._show_newest(progress)

    def _show_newest(self, progress: Callable[[int], None]) -> None:
        if self._here:
            for result in self._crew.change(lambda: [self._shown.take()] if len(self._shown) else []):
                for sink in self._here:
                    sink.write(result)
        if self._drawing.frames > self._reported:
            self._reported = self._drawing.frames
            progress(self._reported)

    def _size_up(self, frame: Frame) -> None:
        """Set the capacity of the queues by the size of the largest frame."""
        size = sum(plane.nbytes for plane in frame.picture.planes)
        if size > self._largest:
            self._largest = size
            for queue, least in self._elastic:
                queue.capacity = least + max(_FEWEST, min(_BURST, _WAITING_BYTES // size))

    @property
    def dropped(self) -> int:
        """Frames of a live source that were dropped."""
        return self._source.dropped + self._read.dropped

    def summary(self, labels: LabelSpec, *, seconds: float) -> Summary:
        pixels, sums = self._drawing.pixels, self._drawing.confidence_sums
        shares, other = class_shares(pixels, labels)
        return Summary(
            frames=self._drawing.frames,
            seconds=seconds,
            steps=self._meter.steps(),
            shares=shares,
            other=other,
            zones=zone_shares(self._drawing.zone_pixels, labels, confidence_sums=self._drawing.zone_confidence_sums),
            confidence=means_by_class(sums, pixels, labels) if self._confident else {},
            mean_confidence=mean_of(sums, pixels) if self._confident else None,
            depths={
                "read": Depth.of(self._read),
                "engine": Depth.of(self._seen),
                **{f"sink {number}": Depth.of(queue) for number, queue in enumerate(self._written, 1)},
            },
            dropped=self.dropped,
            interrupted=self.interrupted,
            damage=self._source.damage,
        )
