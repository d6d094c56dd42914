"""Times of every step for the last ten thousand frames, so that memory does not grow during a long run."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

_KEPT = 10_000


@dataclass(frozen=True)
class StepTime:
    """Milliseconds of one step, per frame."""

    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> StepTime:
        p50, p99 = np.percentile(np.asarray(seconds, np.float64) * 1e3, [50, 99]) if len(seconds) else (0.0, 0.0)
        return cls(p50_ms=float(p50), p99_ms=float(p99))


class Meter:
    """Collects seconds by step, from any thread."""

    def __init__(self, steps: Sequence[str]) -> None:
        self._seconds: dict[str, deque[float]] = {step: deque(maxlen=_KEPT) for step in steps}
        self._lock = threading.Lock()

    def add(self, step: str, seconds: float) -> None:
        with self._lock:
            self._seconds[step].append(seconds)

    @contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Measure the body of a ``with``; nothing is added if it raises."""
        start = time.perf_counter()
        yield
        self.add(step, time.perf_counter() - start)

    def steps(self) -> dict[str, StepTime]:
        """p50 and p99 of every step that was measured."""
        with self._lock:
            return {step: StepTime.of(seconds) for step, seconds in self._seconds.items() if seconds}
