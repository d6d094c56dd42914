"""Workers, one a core, who share the steps of a pipeline: each does the piece of work that is furthest downstream.

A thread a step would leave it to the system which of them runs, and where: with more threads than cores they push each
other off the cores, caches turn cold, and a core that is free is not always given to a thread that could use it. A
worker continues while there is anything to do. On 2 cores that makes a seventh more frames (docs/results/video.md).
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")
Answer = TypeVar("Answer")


class Step(ABC, Generic[Item, Done]):
    """A step of a pipeline, done piece by piece. Everything but :meth:`work` is quick, and called by the crew with its
    lock held: queues between steps need none of their own.

    Attributes:
        name: of its workers, if it has some for itself.
        places: how many workers may be at it at a time.
        waits: whether work waits for something else than a core: then it has workers for itself.
        busy: how many are at it.
        failed: work raised an exception.
        ended: :meth:`end` was called.
    """

    name = "step"
    places = 1
    waits = False
    busy = 0
    failed = False
    ended = False

    @abstractmethod
    def ready(self) -> bool:
        """Whether there is something to do, and room for what comes of it."""

    @abstractmethod
    def take(self) -> Item:
        """What is to do, when :meth:`ready`."""

    @abstractmethod
    def work(self, item: Item) -> Done:
        """Do it; the lock is not held."""

    @abstractmethod
    def give(self, done: Done) -> None:
        """Pass it on."""

    @abstractmethod
    def over(self) -> bool:
        """Whether nothing will be taken any more."""

    @abstractmethod
    def end(self) -> None:
        """Tell the neighbours, once, when it is over or failed and nobody is at it: what it gave still arrives."""

    @property
    def can_be_done(self) -> bool:
        """Whether a worker may take something."""
        return self.busy < self.places and not self.has_closed and self.ready()

    @property
    def has_closed(self) -> bool:
        """Whether it is over or failed."""
        return self.ended or self.failed or self.over()


class _Worker:
    """One thread.

    Args:
        steps: in the order of what is done first.
    """

    def __init__(self, name: str, steps: Sequence[Step[Any, Any]], crew: Crew, *, burst: int) -> None:
        self.steps = steps
        self._burst = burst
        self._last: Step[Any, Any] | None = None
        self._pieces = 0  # that it did of the last step, one after the other
        # a thread that hangs in a driver must not keep the program from ending
        self.thread = threading.Thread(target=crew._run, args=(self,), name=f"segpress-{name}", daemon=True)
        self.asleep = True  # or about to be
        self._sleep = threading.Lock()
        self._sleep.acquire()

    @property
    def has_work(self) -> bool:
        return any(step.can_be_done for step in self.steps)

    @property
    def is_over(self) -> bool:
        return all(step.has_closed for step in self.steps)

    def next(self) -> tuple[Step[Any, Any], Any] | None:
        """A step that can be done, and what is to do; None: nothing now."""
        if self._last is None or self._pieces >= self._burst or not self._last.can_be_done:
            self._last = next((step for step in self.steps if step.can_be_done), None)
            self._pieces = 0
        if self._last is None:
            return None
        self._pieces += 1
        self._last.busy += 1
        return self._last, self._last.take()

    def sleep(self) -> None:
        """Until somebody calls :meth:`wake`, or has called it before."""
        self._sleep.acquire()

    def wake(self) -> None:
        """Once or more; with the crew's lock held."""
        if self._sleep.locked():
            self._sleep.release()


class Crew:
    """Does the steps of a pipeline until all are over. The first error ends the step where it was raised and so, by and
    by, all others; what was on its way arrives.

    Args:
        steps: in the order in which things flow. The first one may hang in a driver: it is not waited for.
        workers: how many for the steps that wait for nothing; no more are started than have places.
        burst: how many pieces of a step a worker does, while it can, before it looks what is furthest downstream: what
            the step needs is in the core's cache then.
        failed: called, without the lock, after a step failed.

    Attributes:
        error: the first one, None while there is none.
        finished: every step but the first has ended, or nobody ever began.
    """

    def __init__(
        self, steps: Sequence[Step[Any, Any]], *, workers: int, burst: int, failed: Callable[[], None]
    ) -> None:
        self.error: BaseException | None = None
        self.finished = False
        self._steps = steps
        self._failed = failed
        self._lock = threading.Lock()
        self._end = threading.Lock()  # held until finished
        self._end.acquire()
        self._begun = self._called_off = False
        shared = [step for step in reversed(steps) if not step.waits]
        count = min(workers, sum(step.places for step in shared))
        self._workers = [_Worker(f"worker-{number}", shared, self, burst=burst) for number in range(count)]
        for number, step in enumerate(steps):
            if step.waits:
                names = [f"{step.name}-{number}-{place}" for place in range(step.places)]
                self._workers += [_Worker(name, [step], self, burst=burst) for name in names]

    def start(self) -> None:
        """Start the threads; none works before :meth:`begin`."""
        for worker in self._workers:
            worker.thread.start()

    def begin(self) -> None:
        """Let all work. Whatever is called from outside can be called again where a signal interrupted it."""
        with self._lock:
            self._begun = True
            self._settle()
            self._wake()

    def call_off(self) -> None:
        """End the threads that were not let to work; nothing happens after :meth:`begin`."""
        with self._lock:
            if not self._begun:
                self._called_off = self.finished = True
                self._wake()

    def tell(self, change: Callable[[], Answer]) -> Answer:
        """Change queues from outside."""
        with self._lock:
            answer = change()
            if self._begun:
                self._settle()
                self._wake()
            return answer

    def wait(self, timeout: float = -1) -> bool:
        """Until it is finished, or for so many seconds; whether it is. An exception of a signal leaves it intact."""
        if not self.finished:
            self._end.acquire(timeout=timeout)
        return self.finished

    def join(self, patience: float) -> None:
        """Wait for the threads, for so many seconds."""
        until = time.monotonic() + patience
        for worker in self._workers:
            if worker.thread.ident is not None:
                worker.thread.join(max(0.0, until - time.monotonic()))

    def _run(self, worker: _Worker) -> None:
        worker.sleep()
        at: Step[Any, Any] | None = None
        done: Any = None
        while True:
            with self._lock:
                worker.asleep = False
                if at is not None:
                    self._hand_in(at, done)
                self._settle()
                found = None if self._called_off else worker.next()
                self._wake()
                if found is None:
                    if worker.is_over or self._called_off:
                        return
                    worker.asleep = True
            at = done = None  # nothing is kept while it sleeps
            if found is None:
                worker.sleep()
                continue
            at, item = found
            try:
                done = at.work(item)
            except BaseException as error:
                with self._lock:
                    self._fail(at, error)
                with suppress(Exception):  # one error is enough
                    self._failed()
            found = item = None

    def _hand_in(self, step: Step[Any, Any], done: Any) -> None:
        try:
            if not step.failed:
                step.give(done)
        except BaseException as error:
            self._fail(step, error)
        step.busy -= 1

    def _fail(self, step: Step[Any, Any], error: BaseException) -> None:
        step.failed = True
        if not self.finished:  # what a reader that hung says after the end is of no interest
            self.error = self.error or error

    def _settle(self) -> None:
        """End the steps that are over, which may end others."""
        again = True
        while again:
            again = False
            for step in self._steps:
                if not step.ended and not step.busy and step.has_closed:
                    step.end()  # first, so that it is repeated where a signal interrupts it
                    step.ended = again = True
        if all(step.ended for step in self._steps[1:]):
            self.finished = True
        if self.finished and self._end.locked():
            self._end.release()

    def _wake(self) -> None:
        """Wake whoever has something to do, or nothing ever more."""
        for worker in self._workers:
            if worker.asleep and (self._called_off or worker.has_work or worker.is_over):
                worker.wake()
