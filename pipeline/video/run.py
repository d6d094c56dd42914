"""One pass over a source: the threads, and the channels between them.

Channels are short: whoever is ahead waits for the rest, except that a live source does not wait and its newest frame
counts. Order is kept however many engines work side by side.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.runtimes import Engine
from pipeline.video.crew import Crew
from pipeline.video.flow import Channel
from pipeline.video.meter import Meter
from pipeline.video.overlay import Overlay
from pipeline.video.pixels import class_shares, count_ids
from pipeline.video.selection import Selection
from pipeline.video.sinks import MainThreadSink, Result, Sink, Stop
from pipeline.video.smoothing import Smoother
from pipeline.video.sources import Frame, Source
from pipeline.video.summary import Depth, Summary
from pipeline.video.view import Looking, View

STEPS = ("read", "resize", "infer", "draw", "write", "age")
_POLL_S = 0.05  # between looks whether a window was closed
_PATIENCE_S = 2.0  # for a reader that hangs in a driver when everything else has ended


@dataclass(frozen=True)
class _Seen:
    """A frame that an engine has seen."""

    frame: Frame
    view: View
    fitted: Array  # what the engine was given
    label_map: Array
    infer_ms: float


class Run:
    """One pass: channels, and the work of each thread between them."""

    def __init__(
        self,
        source: Source,
        engines: Sequence[Engine],
        *,
        overlay: Overlay | None,
        smoother: Smoother | None,
        looking: Looking,
        selection: Selection,
    ) -> None:
        assert len({(e.input_size, e.output_size, e.batches) for e in engines}) == 1, "engines are copies of one"
        self.source, self.engines = source, engines
        self.overlay, self.smoother, self.looking, self.selection = overlay, smoother, looking, selection
        self.meter = Meter(STEPS)
        self.pixels = np.zeros(256, np.int64)
        self.frames = 0
        self.interrupted = False  # by Ctrl-C
        self.ended = False  # so, or because whoever watched has seen enough
        batch = engines[0].batches[1]
        self.read: Channel[Frame] = Channel(1 if source.live else 3 + batch, newest=source.live)
        self.seen: Channel[Future[_Seen]] = Channel(batch * len(engines) + (0 if source.live else 2))
        self.written: list[Channel[Result]] = []
        self._turn = threading.Lock()
        self._at_work = len(engines)
        self._views: dict[tuple[int, int], View] = {}

    def go(self, sinks: Sequence[Sink], progress: Callable[[int], None]) -> None:
        """Start the threads, show results in this one, and come back when all is written."""
        crew = Crew()
        shown: Channel[Result] = Channel(1, newest=True)
        here = [sink for sink in sinks if isinstance(sink, MainThreadSink)]
        beside = [sink for sink in sinks if not isinstance(sink, MainThreadSink)]
        self.written = [
            Channel(1 if self.source.live else 4) if sink.patient else Channel(1, newest=True) for sink in beside
        ]
        works = [(f"engine-{number}", partial(self._infer, engine)) for number, engine in enumerate(self.engines)]
        works.append(("draw", partial(self._draw, [*self.written, shown])))
        works += [("write", partial(self._write, *pair)) for pair in zip(beside, self.written, strict=True)]
        threads: list[threading.Thread] = []
        reader: threading.Thread | None = None

        def show() -> None:
            crew.begin()  # not before Ctrl-C ends a run in good order
            self._show(here, shown, progress)

        try:
            threads += [crew.start(name, work) for name, work in works]
            reader = crew.start("read", self._read)
            self._until_done(show)
            self._wind_down()  # nothing is shown any more: after an error nobody waits for another frame
            for thread in threads:
                self._until_done(thread.join)
        finally:  # whatever a sink of this thread raised: the others end first
            crew.call_off()
            self._wind_down()
            shown.close()
            for thread in threads:
                thread.join()
            if reader:
                reader.join(_PATIENCE_S)
        if self.ended and not self.frames:
            raise KeyboardInterrupt
        if crew.error:
            raise crew.error

    def _until_done(self, wait: Callable[[], object]) -> None:
        """Wait; Ctrl-C, or a window that is closed, ends the reading, and what was read is finished."""
        while True:
            try:
                wait()
                return
            except (KeyboardInterrupt, Stop) as wish:
                self.interrupted = self.interrupted or isinstance(wish, KeyboardInterrupt)
                self.ended = True
                self._wind_down()

    def _wind_down(self) -> None:
        self.source.stop()
        self.read.end()

    def _show(self, sinks: Sequence[MainThreadSink], results: Channel[Result], progress: Callable[[int], None]) -> None:
        while not results.finished:
            for result in results.take(1, timeout=_POLL_S if sinks else None):
                progress(result.index + 1)
                for sink in sinks:
                    sink.write(result)
            for sink in sinks:
                sink.poll()

    def _read(self) -> None:
        frames = iter(self.selection.frames(self.source))
        try:
            while True:
                with self.meter.measure("read"):
                    frame = next(frames, None)
                if frame is None:
                    return
                self.read.put(frame)
        finally:
            self.read.end()

    def _infer(self, engine: Engine) -> None:
        try:
            while True:
                with self._turn:  # frames are taken and their places in the order given at once
                    frames = self.read.take(engine.batches[1], wait=not self.source.live)
                    places: list[Future[_Seen]] = [Future() for _ in frames]
                    for place in places:
                        self.seen.put(place)
                if not frames:
                    return
                try:
                    for place, seen in zip(places, self._run_engine(engine, frames), strict=True):
                        place.set_result(seen)
                except BaseException as error:
                    for place in places:
                        if not place.done():
                            place.set_exception(error)
                    raise
        finally:
            with self._turn:
                self._at_work -= 1
                if not self._at_work:
                    self.seen.end()
                    self.read.close()

    def _run_engine(self, engine: Engine, frames: Sequence[Frame]) -> Iterable[_Seen]:
        views = [self._view(frame) for frame in frames]
        with self.meter.measure("resize"):
            fitted = [view.fit(frame.picture) for view, frame in zip(views, frames, strict=True)]
        fitted += fitted[-1:] * (engine.batches[0] - len(fitted))
        start = time.perf_counter()
        label_maps = engine.run(np.stack(fitted) if len(fitted) > 1 else fitted[0][np.newaxis])  # (N, h, w)
        seconds = time.perf_counter() - start
        self.meter.add("infer", seconds)
        for frame, view, given, label_map in zip(frames, views, fitted, label_maps, strict=False):
            yield _Seen(frame, view, given, view.cut(label_map), 1e3 * seconds)

    def _view(self, frame: Frame) -> View:
        size = frame.picture.size
        view = self._views.get(size)
        if view is None:
            engine = self.engines[0]
            try:
                view = self.looking.at(size, input_size=engine.input_size, output_size=engine.output_size)
            except UserError as error:
                raise UserError(f"{frame.name}: {error}") from error
            self._views = {size: view}  # a source changes its size rarely, and never without end
        return view

    def _draw(self, out: Sequence[Channel[Result]]) -> None:
        try:
            for place in self.seen:
                seen = place.result()
                with self.meter.measure("draw"):
                    result = self._result(seen)
                for channel in out:
                    channel.put(result)
                if not self.written:
                    self.meter.add("age", time.perf_counter() - result.arrived)
        finally:
            self.seen.close()
            for channel in out:
                channel.end()

    def _result(self, seen: _Seen) -> Result:
        frame, box = seen.frame, seen.view.box
        label_map = seen.label_map
        if self.smoother:
            label_map = self.smoother.smooth(label_map, seen.view.seen(seen.fitted))
        pixels = count_ids(label_map)
        result = Result(
            index=self.frames,
            name=frame.name,
            timestamp=frame.timestamp,
            arrived=frame.arrived,
            size=frame.picture.size,
            box=box,
            label_map=label_map,
            pixels=pixels,
            infer_ms=seen.infer_ms,
            dropped=self.dropped,
            picture=self.overlay.draw(frame.picture, label_map, box=box, pixels=pixels) if self.overlay else None,
            frame=frame.picture,
        )
        self.pixels += pixels
        self.frames += 1
        return result

    @property
    def dropped(self) -> int:
        return self.source.dropped + self.read.dropped

    def _write(self, sink: Sink, results: Channel[Result]) -> None:
        try:
            for result in results:
                with self.meter.measure("write"):
                    sink.write(result)
                if sink.patient:
                    self.meter.add("age", time.perf_counter() - result.arrived)
        except Stop:
            self.ended = True
            self._wind_down()
            for _ in results:  # the other sinks get what is on its way
                pass
        except BaseException:
            self._wind_down()  # nobody else hears of it before the next frame, which may never come
            raise
        finally:
            results.close()

    def summary(self, labels: LabelSpec, *, seconds: float) -> Summary:
        shares, other = class_shares(self.pixels, labels)
        return Summary(
            frames=self.frames,
            seconds=seconds,
            steps=self.meter.steps(),
            shares=shares,
            other=other,
            depths={
                "read": Depth.of(self.read),
                "engine": Depth.of(self.seen),
                **{f"sink {number}": Depth.of(channel) for number, channel in enumerate(self.written, 1)},
            },
            dropped=self.dropped,
            interrupted=self.interrupted,
        )
