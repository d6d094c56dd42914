"""Makes results of label maps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.video.confidence import mean_of, sum_by_id
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.pixels import Counts, count_ids
from pipeline.video.sinks import Result
from pipeline.video.smoothing import Smoother
from pipeline.video.steps.inferring import Place, Seen
from pipeline.video.workers.crew import Step
from pipeline.video.workers.flow import Queue
from pipeline.video.workers.meter import Meter
from pipeline.video.zones import Zones


class Drawing(Step[Seen | BaseException, Result]):
    """Makes results of label maps: smooths and counts them, draws overlays.

    Args:
        zones: zones that are counted separately, and ignored zones; None: no zones.
        dropped: returns the number of frames that were dropped until now.
        is_last: whether no sink writes, so that this is the last step.

    Attributes:
        frames, pixels: number of results, and (256,) number of their pixels with each id.
        zone_pixels: the same number for each zone, by its name.
        confidence_sums, zone_confidence_sums: sums of the confidence of these pixels; 0 and empty without confidence.
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
        zones: Zones | None,
        dropped: Callable[[], int],
        is_last: bool,
    ) -> None:
        self.frames = 0
        self.pixels = np.zeros(256, np.int64)
        self.zone_pixels: dict[str, Counts] = {}
        self.confidence_sums = np.zeros(256, np.int64)
        self.zone_confidence_sums: dict[str, Counts] = {}
        self._places, self._out, self._meter = places, out, meter
        self._overlay, self._smoother, self._dropped, self._is_last = overlay, smoother, dropped, is_last
        self._zones = zones

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
        confidence = seen.confidence
        zone_pixels: dict[str, Counts] = {}
        zone_sums: dict[str, Counts] = {}
        if self._zones:
            label_map = self._zones.exclude(label_map, box=box, size=frame.picture.size)
            zone_pixels = self._zones.count(label_map)
            if confidence is not None:
                confidence = self._zones.blank(confidence)
                zone_sums = self._zones.sum_confidence(label_map, confidence)
        occurring = pixels = count_ids(label_map)
        if self._zones:
            pixels = occurring.copy()
            pixels[self._zones.ignore_index] -= self._zones.excluded
        sums = None if confidence is None else sum_by_id(label_map, confidence)
        picture = None
        if self._overlay:
            mean = None if sums is None else mean_of(sums, pixels)
            picture = self._overlay.draw(
                frame.picture, label_map, box=box, pixels=occurring, confidence=confidence, mean_confidence=mean
            )
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
            zone_pixels=zone_pixels,
            confidence=confidence,
            confidence_sums=sums,
            zone_confidence_sums=zone_sums,
        )

    def give(self, done: Result) -> None:
        self.frames += 1
        self.pixels += done.pixels
        for name, pixels in done.zone_pixels.items():
            self.zone_pixels[name] = self.zone_pixels.get(name, 0) + pixels
        if done.confidence_sums is not None:
            self.confidence_sums += done.confidence_sums
        for name, sums in done.zone_confidence_sums.items():
            self.zone_confidence_sums[name] = self.zone_confidence_sums.get(name, 0) + sums
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
