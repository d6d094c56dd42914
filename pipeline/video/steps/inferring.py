"""Runs engines on frames, in parallel and in order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.runtimes import Engine
from pipeline.video.sources import Frame
from pipeline.video.turns import SharedEngine
from pipeline.video.view import Looking, View
from pipeline.video.workers.crew import Step
from pipeline.video.workers.flow import Queue
from pipeline.video.workers.meter import Meter


@dataclass(frozen=True)
class Seen:
    """A frame that an engine has segmented."""

    frame: Frame
    view: View
    fitted: Array  # input of the engine
    label_map: Array
    infer_ms: float
    confidence: Array | None = None  # of the label map's pixels; None if it is not wanted


@dataclass
class Place:
    """The place of a frame in the order, while an engine works on it.

    Attributes:
        seen: the result or the error; None before it is ready.
    """

    seen: Seen | BaseException | None = None


@dataclass(frozen=True)
class _Batch:
    engine: Engine
    frames: list[Frame]
    places: list[Place]
    seen: Sequence[Seen | BaseException] = ()


class Inferring(Step[_Batch, _Batch]):
    """Runs every engine on frames at the same time; the frames keep their order.

    Args:
        engines: copies of one engine.
        full_batches: whether to wait until a batch is full.
        waits: whether the engines do not use the cores.
        confident: whether to get confidence, too; the engines must give it.
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
        confident: bool = False,
    ) -> None:
        assert len({(e.input_size, e.output_size, e.batches) for e in engines}) == 1, "engines are copies of one"
        self.places = len(engines)
        self.waits = waits
        self._idle = list(engines)
        self._fewest, self._most = engines[0].batches
        self._sizes = {"input_size": engines[0].input_size, "output_size": engines[0].output_size}
        self._frames, self._out, self._meter = frames, out, meter
        self._looking, self._full_batches, self._confident = looking, full_batches, confident
        self._views: dict[tuple[tuple[int, int], Fraction], View] = {}  # by size and shape of pixels

    def ready(self) -> bool:
        fewest = self._most if self._full_batches and not self._frames.ended else 1
        return len(self._frames) >= fewest and self._out.room >= min(self._most, len(self._frames))

    def take(self) -> _Batch:
        frames = [self._frames.take() for _ in range(min(self._most, len(self._frames)))]
        places = [Place() for _ in frames]
        for place in places:
            self._out.put(place)
        return _Batch(self._idle.pop(), frames, places)  # there are as many engines as places

    def work(self, item: _Batch) -> _Batch:
        seen: Sequence[Seen | BaseException]
        try:
            seen = self._see(item)
        except BaseException as error:  # it is raised after the frames before it are written
            seen = [error] * len(item.places)
        return _Batch(item.engine, item.frames, item.places, seen)

    def _see(self, item: _Batch) -> list[Seen]:
        views = [self._view(frame) for frame in item.frames]
        with self._meter.measure("resize"):
            fitted = [view.fit(frame.picture) for view, frame in zip(views, item.frames, strict=True)]
        given = fitted + fitted[-1:] * (self._fewest - len(fitted))
        start = time.perf_counter()
        batch = np.stack(given) if len(given) > 1 else given[0][np.newaxis]
        label_maps, confidences = self._run(item.engine, batch)
        seconds = time.perf_counter() - start
        if isinstance(item.engine, SharedEngine):
            self._meter.add("turn", item.engine.waited_s)
            seconds -= item.engine.waited_s
        self._meter.add("infer", seconds)
        return [
            Seen(frame, view, image, view.cut(label_map), 1e3 * seconds, None if sure is None else view.cut(sure))
            for frame, view, image, label_map, sure in zip(
                item.frames, views, fitted, label_maps[: len(fitted)], confidences[: len(fitted)], strict=True
            )
        ]

    def _run(self, engine: Engine, batch: Array) -> tuple[Array, Sequence[Array | None] | Array]:
        """Label maps (N, h, w), and the confidence of their pixels, or None for each if it is not wanted."""
        return engine.run_with_confidence(batch) if self._confident else (engine.run(batch), [None] * len(batch))

    def _view(self, frame: Frame) -> View:
        size, aspect = frame.picture.size, frame.picture.aspect
        view = self._views.get((size, aspect))
        if view is None:
            try:
                view = self._looking.at(size, aspect=aspect, **self._sizes)
            except UserError as error:
                raise UserError(f"{frame.name}: {error}") from error
            self._views = {(size, aspect): view}  # one view is enough: sources rarely change their size
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
