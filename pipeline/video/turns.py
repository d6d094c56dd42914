"""Engines that several runs share: runs take turns, and one batch may hold frames of several sources."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.runtimes import NO_CONFIDENCE, Engine

Results = tuple[Array, Array | None]  # label maps and confidence, (N, h, w) each


class _Request:
    """One frame that waits for its turn.

    Attributes:
        results: of the frame; None before they are ready.
        begun: time at which an engine took it.
    """

    def __init__(self, frames: Array, *, confident: bool) -> None:
        self.frames, self.confident = frames, confident
        self.is_taken = False
        self.begun = 0.0
        self.results: Results | None = None
        self.error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.results is not None or self.error is not None


class Turns:
    """Shares engines among runs.

    Requests are served in their order. A run makes its next request when the last one has its results, so a run with
    many frames never delays another one by more than one frame. A batch holds as many waiting frames as the engine
    takes; no frame waits for a batch to fill.

    Args:
        engines: copies of one engine. The caller closes them after the runs.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        assert len({(e.input_size, e.output_size, e.batches) for e in engines}) == 1, "engines are copies of one"
        self.engine = engines[0]
        self._idle = list(engines)
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._frames = self._runs = 0  # frames, and the runs of an engine that they took

    def seat(self) -> SharedEngine:
        """An engine for one run."""
        return SharedEngine(self)

    @property
    def mean_batch(self) -> float:
        """Frames per run of an engine, on average."""
        return self._frames / self._runs if self._runs else 0.0

    def run(self, frames: Array, *, confident: bool) -> tuple[Results, float]:
        """Run one frame (1, H, W, 3) in its turn.

        Returns:
            Its label map and confidence, and the seconds that it waited for its turn.
        """
        request = _Request(frames, confident=confident)
        asked = time.perf_counter()
        with self._changed:
            self._waiting.append(request)
        while not request.is_done:
            with self._changed:
                self._changed.wait_for(lambda: request.is_done or (self._idle and not request.is_taken))
                if request.is_done:
                    break
                engine, batch = self._idle.pop(), self._take()
            try:
                self._compute(engine, batch)
            finally:
                with self._changed:
                    self._idle.append(engine)
                    self._changed.notify_all()
        if request.error is not None:
            raise request.error
        assert request.results is not None
        return request.results, request.begun - asked

    def _take(self) -> list[_Request]:
        """The oldest requests that fit into one batch."""
        batch = [self._waiting.popleft() for _ in range(min(self.engine.batches[1], len(self._waiting)))]
        now = time.perf_counter()
        for request in batch:
            request.is_taken, request.begun = True, now
        self._frames += len(batch)
        self._runs += 1
        return batch

    def _compute(self, engine: Engine, batch: Sequence[_Request]) -> None:
        try:
            frames = [request.frames[0] for request in batch]
            frames += frames[-1:] * (engine.batches[0] - len(frames))
            given = np.stack(frames) if len(frames) > 1 else batch[0].frames
            confidence: Array | None = None
            if any(request.confident for request in batch):
                label_maps, confidence = engine.run_with_confidence(given)
            else:
                label_maps = engine.run(given)
        except BaseException as error:
            for request in batch:
                request.error = error
            return
        for index, request in enumerate(batch):
            own = slice(index, index + 1)
            request.results = label_maps[own], None if confidence is None else confidence[own]


class SharedEngine(Engine):
    """An engine for one run, whose frames wait for their turn among those of the other runs.

    Attributes:
        waited_s: how long the last frame waited.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.input_size, self.output_size = turns.engine.input_size, turns.engine.output_size
        self.on_gpu, self.gives_confidence = turns.engine.on_gpu, turns.engine.gives_confidence
        self.waited_s = 0.0

    def run(self, frames: Array) -> Array:
        (label_maps, _), self.waited_s = self._turns.run(frames, confident=False)
        return label_maps

    def run_with_confidence(self, frames: Array) -> tuple[Array, Array]:
        if not self.gives_confidence:
            raise UserError(NO_CONFIDENCE)
        (label_maps, confidence), self.waited_s = self._turns.run(frames, confident=True)
        assert confidence is not None
        return label_maps, confidence
