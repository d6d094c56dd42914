"""Workers and steps: order, choice of steps, errors, ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.video.workers.crew import Crew, Step
from pipeline.video.workers.flow import Queue


class Counting(Step[None, int]):
    """Gives 0 to ``count`` - 1."""

    name = "count"

    def __init__(self, count: int, out: Queue[int], log: list[str]) -> None:
        self._items: Iterator[int] = iter(range(count))
        self._count, self._given, self._out, self._log = count, 0, out, log

    def ready(self) -> bool:
        return self._out.room > 0

    def take(self) -> None:
        pass

    def work(self, item: None) -> int:
        self._log.append(self.name)
        return next(self._items)

    def give(self, done: int) -> None:
        self._given += 1
        if not self._out.stopped:
            self._out.put(done)

    def over(self) -> bool:
        return self._given == self._count or self._out.stopped

    def end(self) -> None:
        self._out.end()


class Doing(Step[int, int]):
    """Changes numbers and passes them to the next step, if there is one."""

    def __init__(
        self,
        name: str,
        into: Queue[int],
        out: Queue[int] | None,
        log: list[str],
        do: Callable[[int], object] = lambda item: None,
        *,
        waits: bool = False,
    ) -> None:
        self.name, self.waits = name, waits
        self._into, self._out, self._log, self._do = into, out, log, do
        self.done: list[int] = []
        self.threads: set[str] = set()

    def ready(self) -> bool:
        return len(self._into) > 0 and (self._out is None or self._out.room > 0)

    def take(self) -> int:
        return self._into.take()

    def work(self, item: int) -> int:
        self._log.append(self.name)
        self.threads.add(threading.current_thread().name)
        self._do(item)
        return item

    def give(self, done: int) -> None:
        self.done.append(done)
        if self._out is not None and not self._out.stopped:
            self._out.put(done)

    def over(self) -> bool:
        return self._into.finished or (self._out is not None and self._out.stopped)

    def end(self) -> None:
        self._into.close()
        if self._out is not None:
            self._out.end()


class Line:
    """count -> middle -> last, with ``capacity`` places between two."""

    def __init__(self, count: int, *, capacity: int = 2, workers: int = 2, burst: int = 1, **does: Any) -> None:
        self.log: list[str] = []
        self.first: Queue[int] = Queue(capacity)
        self.second: Queue[int] = Queue(capacity)
        self.failures = 0
        self.count = Counting(count, self.first, self.log)
        waits = does.pop("waits", False)
        nothing = {"middle": lambda item: None, "last": lambda item: None}
        do = {**nothing, **does}
        self.middle = Doing("middle", self.first, self.second, self.log, do["middle"])
        self.last = Doing("last", self.second, None, self.log, do["last"], waits=waits)
        steps: list[Step[Any, Any]] = [self.count, self.middle, self.last]
        self.crew = Crew(steps, workers=workers, burst=burst, failed=self._failed)

    def _failed(self) -> None:
        self.failures += 1
        self.crew.change(self.first.end)

    def run(self) -> Line:
        self.crew.start()
        self.crew.begin()
        assert self.crew.wait(10)
        self.crew.join(5)
        assert self.count.ended
        return self


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = threading.active_count()
    yield
    until = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("burst", [1, 4])
@pytest.mark.parametrize("capacity", [1, 4])
def test_everything_arrives_in_order(workers: int, burst: int, capacity: int) -> None:
    line = Line(300, workers=workers, burst=burst, capacity=capacity).run()
    assert line.last.done == list(range(300))
    assert line.crew.error is None
    assert len(line.middle.threads | line.last.threads) <= min(workers, 3), "no more workers than places"


def test_the_last_step_with_work_comes_first() -> None:
    line = Line(3, workers=1, capacity=3).run()
    assert line.log == ["count", "middle", "last"] * 3


def test_a_burst_stays_at_a_step_while_it_can() -> None:
    line = Line(6, workers=1, capacity=3, burst=3).run()
    assert line.log == (["count"] * 3 + ["middle"] * 3 + ["last"] * 3) * 2
    line = Line(6, workers=1, capacity=2, burst=3).run()
    assert line.log == (["count"] * 2 + ["middle"] * 2 + ["last"] * 2) * 3, "as far as there is room"


def test_steps_overlap() -> None:
    def pause(item: int) -> None:
        time.sleep(0.03)

    start = time.perf_counter()
    Line(20, workers=3, middle=pause, last=pause).run()
    assert time.perf_counter() - start < 1.0, "one after the other it would be 1.2 s"


def test_a_step_that_waits_takes_no_shared_worker() -> None:
    """One worker continues while the last step waits."""
    reached = threading.Event()

    def last(item: int) -> None:
        if item == 0:
            assert reached.wait(5), "the worker is held up"

    def middle(item: int) -> None:
        if item == 2:
            reached.set()

    line = Line(4, workers=1, middle=middle, last=last, waits=True).run()
    assert line.last.done == [0, 1, 2, 3]
    assert line.last.threads == {"segpress-last-2-0"}
    assert line.middle.threads == {"segpress-worker-0"}


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_in_passing_on_is_one_of_the_step(workers: int) -> None:
    line = Line(1000, workers=workers)
    give = line.middle.give

    def fails(done: int) -> None:
        if done == 5:
            raise RuntimeError("fails on purpose")
        give(done)

    line.middle.give = fails  # type: ignore[method-assign]
    line.run()
    assert str(line.crew.error) == "fails on purpose"
    assert line.last.done == [0, 1, 2, 3, 4]


def test_an_error_in_the_callback_for_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(item: int) -> None:
        raise ValueError("the first")

    line = Line(1000, last=fail)

    def failed() -> None:
        raise OSError("the second")

    line.crew._failed = failed
    line.run()
    assert isinstance(line.crew.error, ValueError)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_error_is_kept_and_earlier_results_arrive(workers: int) -> None:
    def fail(item: int) -> None:
        if item >= 5:
            raise RuntimeError(f"fails on purpose at {item}")

    line = Line(1000, workers=workers, middle=fail).run()
    assert str(line.crew.error) == "fails on purpose at 5"
    assert line.last.done == [0, 1, 2, 3, 4]
    assert line.failures == 1


def test_an_error_ends_the_steps_before_it() -> None:
    def fail(item: int) -> None:
        raise ValueError("fails on purpose")

    line = Line(1000, last=fail).run()
    assert isinstance(line.crew.error, ValueError)
    assert line.last.done == []
    assert len(line.middle.done) < 10


def test_no_worker_begins_before_all_are_started() -> None:
    line = Line(3)
    line.crew.start()
    assert not line.crew.wait(0.05)
    assert line.log == []
    line.crew.begin()
    line.crew.call_off()
    assert line.crew.wait(5)
    line.crew.join(5)
    assert line.last.done == [0, 1, 2], "it is too late to call it off"


def test_called_off() -> None:
    line = Line(3)
    line.crew.start()
    line.crew.call_off()
    assert line.crew.wait(5)
    line.crew.join(5)
    assert line.log == []
    assert line.last.done == []


def test_a_change_from_outside_ends_it() -> None:
    gate = threading.Event()
    line = Line(10**9, middle=lambda item: gate.wait(0.001))
    line.crew.start()
    line.crew.begin()
    assert not line.crew.wait(0.05)
    line.crew.change(line.first.end)
    assert line.crew.wait(5)
    line.crew.join(5)
    assert line.last.done == list(range(len(line.last.done)))
    assert line.last.done == line.middle.done


def test_a_first_step_that_hangs_is_not_waited_for() -> None:
    hangs = threading.Event()
    line = Line(10)
    line.count.work = lambda item: hangs.wait(20) and 0  # type: ignore[method-assign,assignment]
    line.crew.start()
    line.crew.begin()
    assert not line.crew.wait(0.05)
    line.crew.change(line.first.end)
    start = time.perf_counter()
    assert line.crew.wait(5)
    line.crew.join(0.1)
    assert time.perf_counter() - start < 2
    hangs.set()
