"""An engine with known results, a source in memory, results, and a sink that keeps them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.runtimes import Engine
from pipeline.video.drawing.picture import Box, Picture
from pipeline.video.pixels import count_ids
from pipeline.video.sinks import Result
from pipeline.video.sources import Frame, Source

SIZE = (48, 64)  # (height, width) of these videos and images
NAMES = [f"bars-{index:03d}" for index in range(1000)]  # of the frames of Bars


class BrightnessEngine(Engine):
    """Id = brightness of the green channel / 64, at half the input size. Counts its calls.

    Args:
        batches: fewest and most frames of a run.
        delay: seconds that a call takes, by its number.
    """

    input_size = (24, 32)
    output_size = (12, 16)

    def __init__(self, *, batches: tuple[int, int] = (1, 1), delay: Callable[[int], float] = lambda call: 0.0) -> None:
        self.batches = batches
        self.delay = delay
        self.calls = 0
        self.closed = False
        self.batch_sizes: list[int] = []
        self._lock = threading.Lock()

    def run(self, frames: Array) -> Array:
        assert self.batches[0] <= len(frames) <= self.batches[1]
        assert frames.shape[1:] == (*self.input_size, 3)
        assert frames.dtype == np.uint8
        with self._lock:
            self.calls += 1
            call = self.calls
            self.batch_sizes.append(len(frames))
        time.sleep(self.delay(call))
        return frames[:, ::2, ::2, 1] // 64

    def another(self) -> BrightnessEngine:
        return self

    def close(self) -> None:
        self.closed = True


def quarters(index: int = 0) -> Array:
    """A frame (48, 64, 3) of four vertical grey bars, 16 pixels wide; ``index`` rolls them by whole bars."""
    bars = np.repeat(np.array([32, 96, 160, 224], np.uint8), 16)
    return np.repeat(np.tile(np.roll(bars, 16 * index), (48, 1))[..., None], 3, axis=2)


class Bars(Source):
    """Frames of moving bars from memory.

    Args:
        count: how many there are.
        live: frames come every ``pause`` seconds, whether they are taken or not; else ``pause`` is what reading takes.
        fails: number of the frame that raises ``error`` in its place.
        image: the frame by its number.
    """

    name = stem = "bars"
    fps = 25.0

    def __init__(
        self,
        count: int = 8,
        *,
        live: bool = False,
        pause: float = 0.0,
        fails: int | None = None,
        error: type[BaseException] = UserError,
        image: Callable[[int], Array] = quarters,
    ) -> None:
        self.count = count
        self.live = live
        self.waits = live or pause > 0
        self._pause, self._fails, self._error, self._image = pause, fails, error, image
        self._stopped = threading.Event()

    def frames(self, *, start: float = 0.0) -> Iterator[Frame]:
        assert self.count is not None
        for index in range(round(start * self.fps), self.count):
            if self._pause and self._stopped.wait(self._pause):
                return
            if index == self._fails:
                raise self._error("fails on purpose")
            yield Frame(f"bars-{index:03d}", index / self.fps, Picture.of_bgr(self._image(index)))

    def stop(self) -> None:
        self._stopped.set()


class Kept:
    """A sink that keeps results, and takes ``pause`` seconds for each; from the index ``fails`` on it fails.

    Attributes:
        ended: how it was left: an exception class, None for a normal end, or "open".
    """

    written = None

    def __init__(
        self,
        *,
        pause: float = 0.0,
        fails: int | None = None,
        patient: bool = True,
        error: type[BaseException] = UserError,
    ) -> None:
        self.wants_picture = False
        self.patient = patient
        self.waits = pause > 0 or not patient
        self.results: list[Result] = []
        self.threads: set[str] = set()
        self.ended: Any = "open"
        self._pause, self._fails, self._error = pause, fails, error

    def __enter__(self) -> Kept:
        return self

    def write(self, result: Result) -> None:
        time.sleep(self._pause)
        if self._fails is not None and result.index >= self._fails:
            raise self._error("fails on purpose")
        self.threads.add(threading.current_thread().name)
        self.results.append(result)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.ended = kind

    @property
    def names(self) -> list[str]:
        return [result.name for result in self.results]


class Shown(Kept):
    """A sink of the main thread. Counts its polls."""

    polls = 0

    def poll(self) -> None:
        self.polls += 1


def take(source: Source, count: int) -> list[Frame]:
    frames = []
    for frame in source.frames():
        frames.append(frame)
        if len(frames) == count:
            break
    return frames


def grey(value: int, size: tuple[int, int] = SIZE) -> Picture:
    """A picture of one brightness, 0 to 255."""
    return Picture.of_bgr(np.full((*size, 3), value, np.uint8))


def result(
    picture: Array | Picture, *, name: str = "x", timestamp: float | None = None, box: Box | None = None
) -> Result:
    """The result of a drawn picture; its label map (3, 4) repeats the ids 0 to 3."""
    label_map = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    drawn = picture if isinstance(picture, Picture) else Picture.of_bgr(picture)
    return Result(
        index=0,
        name=name,
        timestamp=timestamp,
        arrived=0.0,
        size=drawn.size,
        box=box or Box(0, 0, *drawn.size),
        label_map=label_map,
        pixels=count_ids(label_map),
        infer_ms=1.0,
        dropped=0,
        picture=drawn,
    )
