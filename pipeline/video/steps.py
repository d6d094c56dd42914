"""The steps of a run, in the order in which frames pass them: reading, inferring, drawing, writing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.runtimes import Engine
from pipeline.video.crew import Step
from pipeline.video.flow import Queue
from pipeline.video.meter import Meter
from pipeline.video.overlay import Overlay
from pipeline.video.pixels import count_ids
from pipeline.video.sinks import Result, Sink, Stop
from pipeline.video.smoothing import Smoother
from pipeline.video.sources import Frame
from pipeline.video.view import Looking, View


class Reading(Step[None, Frame | None]):
    """Takes frames from their source.

    Args:
        told: of every frame, before it waits.
    """

    name = "read"

    def __init__(
        self,
        frames: Iterator[Frame],
        out: Queue[Frame],
        meter: Meter,
        *,
        waits: bool,
        told: Callable[[Frame], None],
    ) -> None:
        self.waits = waits
        self._frames, self._out, self._meter = frames, out, meter
        self._told = told
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
        self._told(done)
        if not self._out.stopped:
            self._out.put(done)

    def over(self) -> bool:
        return self._exhausted or self._out.stopped

    def end(self) -> None:
        self._out.end()


@dataclass(frozen=True)
class Seen:
    """A frame that an engine has seen."""

    frame: Frame
    view: View
    fitted: Array  # what the engine was given
    label_map: Array
    infer_ms: float


@dataclass
class Place:
    """Keeps the order: where a frame stands that an engine has in work.

    Attributes:
        seen: what came of it, or what went wrong; None while the engine is at it.
    """

    seen: Seen | BaseException | None = None


@dataclass(frozen=True)
class _Batch:
    engine: Engine
    frames: list[Frame]
    places: list[Place]
    seen: Sequence[Seen | BaseException] = ()


class Inferring(Step[_Batch, _Batch]):
    """Shows frames to engines, as many at a time as there are engines; their order is kept.

    Args:
        engines: copies of one.
        full_batches: wait for as many frames as the engine takes at a time.
        waits: the engines compute elsewhere.
    """

    name = "engine"

    def __init__(
        self,
        engines: Sequence[Engine],
        frames: Queue[Frame],
        out: Queue[Place],
        meter: Meter,
        *,
        looking: Looking,
        full_batches: bool,
        waits: bool,
    ) -> None:
        assert len({(e.input_size, e.output_size, e.batches) for e in engines}) == 1, "engines are copies of one"
        self.places = len(engines)
        self.waits = waits
        self._idle = list(engines)
        self._fewest, self._most = engines[0].batches
        self._sizes = {"input_size": engines[0].input_size, "output_size": engines[0].output_size}
        self._frames, self._out, self._meter = frames, out, meter
        self._looking, self._full_batches = looking, full_batches
        self._views: dict[tuple[int, int], View] = {}

    def ready(self) -> bool:
        fewest = self._most if self._full_batches and not self._frames.ended else 1
        return len(self._frames) >= fewest and self._out.room >= min(self._most, len(self._frames))

    def take(self) -> _Batch:
        frames = [self._frames.take() for _ in range(min(self._most, len(self._frames)))]
        places = [Place() for _ in frames]
        for place in places:
            self._out.put(place)
        return _Batch(self._idle.pop(), frames, places)  # there is one, as there are as many as places

    def work(self, item: _Batch) -> _Batch:
        seen: Sequence[Seen | BaseException]
        try:
            seen = self._see(item)
        except BaseException as error:  # its turn comes when what was before it has been written
            seen = [error] * len(item.places)
        return _Batch(item.engine, item.frames, item.places, seen)

    def _see(self, item: _Batch) -> list[Seen]:
        views = [self._view(frame) for frame in item.frames]
        with self._meter.measure("resize"):
            fitted = [view.fit(frame.picture) for view, frame in zip(views, item.frames, strict=True)]
        given = fitted + fitted[-1:] * (self._fewest - len(fitted))
        start = time.perf_counter()
        label_maps = item.engine.run(np.stack(given) if len(given) > 1 else given[0][np.newaxis])  # (N, h, w)
        seconds = time.perf_counter() - start
        self._meter.add("infer", seconds)
        return [
            Seen(frame, view, image, view.cut(label_map), 1e3 * seconds)
            for frame, view, image, label_map in zip(item.frames, views, fitted, label_maps[: len(fitted)], strict=True)
        ]

    def _view(self, frame: Frame) -> View:
        size = frame.picture.size
        view = self._views.get(size)
        if view is None:
            try:
                view = self._looking.at(size, **self._sizes)
            except UserError as error:
                raise UserError(f"{frame.name}: {error}") from error
            self._views = {size: view}  # a source changes its size rarely, and never without end
        return view

    def give(self, done: _Batch) -> None:
        self._idle.append(done.engine)
        for place, seen in zip(done.places, done.seen, strict=True):
            place.seen = seen

    def over(self) -> bool:
        return self._frames.finished or self._out.closed

    def end(self) -> None:
        self._frames.close()
        self._out.end()


class Drawing(Step[Seen | BaseException, Result]):
    """Makes results of label maps: smooths and counts them, draws overlays.

    Args:
        dropped: frames that were passed over until now.
        is_last: nothing is written.

    Attributes:
        frames, pixels: how many results there were, and how many of their pixels had each id.
    """

    name = "draw"

    def __init__(
        self,
        places: Queue[Place],
        out: Sequence[Queue[Result]],
        meter: Meter,
        *,
        overlay: Overlay | None,
        smoother: Smoother | None,
        dropped: Callable[[], int],
        is_last: bool,
    ) -> None:
        self.frames = 0
        self.pixels = np.zeros(256, np.int64)
        self._places, self._out, self._meter = places, out, meter
        self._overlay, self._smoother, self._dropped, self._is_last = overlay, smoother, dropped, is_last

    def ready(self) -> bool:
        there = len(self._places) > 0 and self._places.first().seen is not None
        return there and all(queue.room for queue in self._out)

    def take(self) -> Seen | BaseException:
        seen = self._places.take().seen
        assert seen is not None
        return seen

    def work(self, item: Seen | BaseException) -> Result:
        if isinstance(item, BaseException):
            raise item
        with self._meter.measure("draw"):
            return self._result(item)

    def _result(self, seen: Seen) -> Result:
        frame, box = seen.frame, seen.view.box
        label_map = seen.label_map
        if self._smoother:
            label_map = self._smoother.smooth(label_map, seen.view.seen(seen.fitted))
        pixels = count_ids(label_map)
        picture = None
        if self._overlay:
            picture = self._overlay.draw(frame.picture, label_map, box=box, pixels=pixels)
        return Result(
            index=self.frames,
            name=frame.name,
            timestamp=frame.timestamp,
            arrived=frame.arrived,
            size=frame.picture.size,
            box=box,
            label_map=label_map,
            pixels=pixels,
            infer_ms=seen.infer_ms,
            dropped=self._dropped(),
            picture=picture,
            frame=frame.picture,
        )

    def give(self, done: Result) -> None:
        self.frames += 1
        self.pixels += done.pixels
        for queue in self._out:
            if not queue.stopped:
                queue.put(done)
        if self._is_last:
            self._meter.add("age", time.perf_counter() - done.arrived)

    def over(self) -> bool:
        return self._places.finished or any(queue.stopped for queue in self._out)

    def end(self) -> None:
        self._places.close()
        for queue in self._out:
            queue.end()


class Writing(Step[Result, None]):
    """Hands results to a sink.

    Args:
        stop: called when the sink has seen enough; the other sinks get what is on its way.
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
