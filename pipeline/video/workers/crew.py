"""Workers, one per core, that share the steps of a pipeline: each works on the last step that has work.

With one thread per step the system would choose which thread runs, and on which core. More threads than cores interrupt
each other, caches turn cold, and a free core does not always get a thread that could use it. A worker continues as long
as there is work. On 2 cores this gives a seventh more frames (docs/results/video.md).
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
    """A step of a pipeline, which handles one item at a time. All methods except :meth:`work` are quick, and the crew
    calls them with its lock held, so queues between steps need no locks.

    Attributes:
        name: name of its own workers, if it has some.
        places: largest number of workers that may work on it at a time.
        waits: whether :meth:`work` waits for something else than a core; then it has its own workers.
        busy: number of workers that work on it now.
        failed: whether :meth:`work` raised an exception.
        ended: whether :meth:`end` was called.
    """

    name = "step"
    places = 1
    waits = False
    busy = 0
    failed = False
    ended = False

    @abstractmethod
    def ready(self) -> bool:
        """Whether there is an item, and room for its result."""

    @abstractmethod
    def take(self) -> Item:
        """The next item; only if :meth:`ready`."""

    @abstractmethod
    def work(self, item: Item) -> Done:
        """The result of an item; the lock is not held."""

    @abstractmethod
    def give(self, done: Done) -> None:
        """Pass a result on."""

    @abstractmethod
    def over(self) -> bool:
        """Whether no more items will be taken."""

    @abstractmethod
    def end(self) -> None:
        """Close the queues to the neighbours, once, when it is over or failed and no worker is busy; its results still
        arrive."""

    @property
    def can_be_done(self) -> bool:
        """Whether a worker may take an item."""
        return self.busy < self.places and not self.has_closed and self.ready()

    @property
    def has_closed(self) -> bool:
        """Whether it is over or failed."""
        return self.ended or self.failed or self.over()


class _Worker:
    """One thread.

    Args:
        steps: in the order in which they are tried.
    """

    def __init__(self, name: str, steps: Sequence[Step[Any, Any]], crew: Crew, *, burst: int) -> None:
        self.steps = steps
        self._burst = burst
        self._last: Step[Any, Any] | None = None
        self._pieces = 0  # items of the last step that it handled in a row
        # a thread that hangs in a driver must not keep the program from ending
        self.thread = threading.Thread(target=crew._run, args=(self,), name=f"segpress-{name}", daemon=True)
        self.asleep = True  # or will be at once
        self._sleep = threading.Lock()
        self._sleep.acquire()

    @property
    def has_work(self) -> bool:
        return any(step.can_be_done for step in self.steps)

    @property
    def is_over(self) -> bool:
        return all(step.has_closed for step in self.steps)

    def next(self) -> tuple[Step[Any, Any], Any] | None:
        """A step that has work, and its next item; None: no work now."""
        if self._last is None or self._pieces >= self._burst or not self._last.can_be_done:
            self._last = next((step for step in self.steps if step.can_be_done), None)
            self._pieces = 0
        if self._last is None:
            return None
        self._pieces += 1
        self._last.busy += 1
        return self._last, self._last.take()

    def sleep(self) -> None:
        """Wait for :meth:`wake`, unless it was called before."""
        self._sleep.acquire()

    def wake(self) -> None:
        """End :meth:`sleep`. May be called again; the lock of the crew is held."""
        if self._sleep.locked():
            self._sleep.release()


class Crew:
    """Runs the steps of a pipeline until all are over. The first error ends its step, and then, one by one, all others;
    results of earlier items still arrive.

    Args:
        steps: in the order of the pipeline. The first one may hang in a driver, so the crew does not wait for it.
        workers: number of workers for the steps that do not wait; no more are started than the steps have places.
        burst: number of items of one step that a worker handles, if it can, before it looks for work in later
            steps; the data of the step stay in the cache of the core.
        failed: called without the lock after a step failed.

    Attributes:
        error: the first error; None if there is none.
        finished: whether every step except the first has ended, or :meth:`call_off` came before :meth:`begin`.
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
        """Let all workers begin. If a signal interrupts a public method, it can be called again."""
        with self._lock:
            self._begun = True
            self._settle()
            self._wake()

    def call_off(self) -> None:
        """End the threads before :meth:`begin`; after it this does nothing."""
        with self._lock:
            if not self._begun:
                self._called_off = self.finished = True
                self._wake()

    def change(self, edit: Callable[[], Answer]) -> Answer:
        """Change queues from outside, with the lock held. Returns the result of ``edit``."""
        with self._lock:
            answer = edit()
            if self._begun:
                self._settle()
                self._wake()
            return answer

    def wait(self, timeout: float = -1) -> bool:
        """Wait until it is finished, or for ``timeout`` seconds. Returns whether it is finished. Signals may interrupt
        it."""
        if not self.finished:
            self._end.acquire(timeout=timeout)
        return self.finished

    def join(self, patience: float) -> None:
        """Wait at most ``patience`` seconds for the threads."""
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
                task = None if self._called_off else worker.next()
                self._wake()
                if task is None:
                    if worker.is_over or self._called_off:
                        return
                    worker.asleep = True
            at = done = None  # a sleeping worker keeps no reference
            if task is None:
                worker.sleep()
                continue
            at, item = task
            try:
                done = at.work(item)
            except BaseException as error:
                with self._lock:
                    self._fail(at, error)
                with suppress(Exception):  # one error is enough
                    self._failed()
            task = item = None

    def _hand_in(self, step: Step[Any, Any], done: Any) -> None:
        try:
            if not step.failed:
                step.give(done)
        except BaseException as error:
            self._fail(step, error)
        step.busy -= 1

    def _fail(self, step: Step[Any, Any], error: BaseException) -> None:
        step.failed = True
        if not self.finished:  # after the end an error of a reader that hung does not matter
            self.error = self.error or error

    def _settle(self) -> None:
        """End the steps that are over, which may end others."""
        again = True
        while again:
            again = False
            for step in self._steps:
                if not step.ended and not step.busy and step.has_closed:
                    step.end()  # first, so that it is repeated if a signal interrupts it
                    step.ended = again = True
        if all(step.ended for step in self._steps[1:]):
            self.finished = True
        if self.finished and self._end.locked():
            self._end.release()

    def _wake(self) -> None:
        """Wake the workers that have work, and those whose steps are over."""
        for worker in self._workers:
            if worker.asleep and (self._called_off or worker.has_work or worker.is_over):
                worker.wake()
