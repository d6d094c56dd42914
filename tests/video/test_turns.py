"""Engines that several runs share: fair turns, batches across sources, errors for the runs in a failed batch."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.video.turns import Turns
from tests.video.fakes import BrightnessEngine

GATE_S = 5.0


class GatedEngine(BrightnessEngine):
    """Waits for ``gate`` before each run; records the brightness of the first pixel of each frame."""

    gives_confidence = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gate = threading.Semaphore(0)
        self.given: list[list[int]] = []
        self.error: BaseException | None = None

    def run(self, frames: Array) -> Array:
        assert self.gate.acquire(timeout=GATE_S)
        self.given.append([int(frame[0, 0, 1]) for frame in frames])
        if self.error is not None:
            raise self.error
        return super().run(frames)

    def run_with_confidence(self, frames: Array) -> tuple[Array, Array]:
        return self.run(frames), frames[:, ::2, ::2, 1]


def frame(brightness: int) -> Array:
    return np.full((1, 24, 32, 3), brightness, np.uint8)


def wait_for(turns: Turns, count: int) -> None:
    """Wait until ``count`` frames wait for their turn."""
    until = time.monotonic() + GATE_S
    while len(turns._waiting) < count:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_each_gets_the_label_map_of_its_own_frame() -> None:
    turns = Turns([BrightnessEngine(delay=lambda call: 0.0005), BrightnessEngine()])

    def work(number: int) -> bool:
        seat = turns.seat()
        return all((seat.run(frame(value)) == value // 64).all() for value in range(number, 256, 5))

    with ThreadPoolExecutor(5) as pool:
        assert all(pool.map(work, range(5)))
    assert turns.mean_batch == 1.0


def test_a_run_with_many_frames_delays_another_by_one_frame_at_most() -> None:
    """One source always has its next frame at once; each frame of the other is the next or the one after it."""
    engine = GatedEngine()
    turns = Turns([engine])
    stop = threading.Event()

    def busy() -> None:
        seat = turns.seat()
        while not stop.is_set():
            seat.run(frame(0))

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(busy)
        engine.gate.release(3)
        calm = turns.seat()
        for number in range(1, 6):
            asked = len(engine.given)
            second = pool.submit(calm.run, frame(40 * number))
            while not second.done():
                engine.gate.release()
                time.sleep(0.002)
            place = engine.given.index([40 * number])
            assert place - asked <= 4  # the frames that passed the gate meanwhile, and one more
        stop.set()
        engine.gate.release(10)
        first.result(GATE_S)


def test_frames_that_wait_go_through_in_one_batch() -> None:
    engine = GatedEngine(batches=(1, 4))
    turns = Turns([engine])
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(turns.seat().run, frame(10))
        while not turns._runs:
            time.sleep(0.001)
        others = []
        for number in range(1, 6):
            others.append(pool.submit(turns.seat().run, frame(40 * number)))
            wait_for(turns, number)
        engine.gate.release(3)
        assert (first.result(GATE_S) == 0).all()
        assert [int(other.result(GATE_S).max()) for other in others] == [0, 1, 1, 2, 3]
    assert engine.given == [[10], [40, 80, 120, 160], [200]]
    assert turns.mean_batch == 2.0


def test_an_engine_that_takes_four_at_a_time_is_filled_up() -> None:
    engine = GatedEngine(batches=(4, 4))
    engine.gate.release()
    assert Turns([engine]).seat().run(frame(100)).shape == (1, 12, 16)
    assert engine.given == [[100] * 4]


def test_confidence_only_on_request() -> None:
    engine = GatedEngine(batches=(1, 2))
    turns = Turns([engine])
    with ThreadPoolExecutor(3) as pool:
        blocking = pool.submit(turns.seat().run, frame(0))
        while not turns._runs:
            time.sleep(0.001)
        plain = pool.submit(turns.seat().run, frame(64))
        wait_for(turns, 1)
        sure = pool.submit(turns.seat().run_with_confidence, frame(128))
        wait_for(turns, 2)
        engine.gate.release(2)
        blocking.result(GATE_S)
        label_map, confidence = sure.result(GATE_S)
        assert (label_map == 2).all() and (confidence == 128).all() and confidence.shape == (1, 12, 16)
        assert (plain.result(GATE_S) == 1).all()
    engine.gives_confidence = False
    with pytest.raises(UserError, match="gives no confidence"):
        turns.seat().run_with_confidence(frame(0))


def test_an_error_reaches_those_whose_frames_were_in_the_batch() -> None:
    engine = GatedEngine(batches=(1, 2))
    turns = Turns([engine])
    engine.error = UserError("no memory")
    engine.gate.release()
    with pytest.raises(UserError, match="no memory"):
        turns.seat().run(frame(0))
    engine.error = None
    engine.gate.release()
    assert (turns.seat().run(frame(64)) == 1).all()  # the engine is free again


def test_the_waiting_time_is_measured_separately() -> None:
    engine = BrightnessEngine(delay=lambda call: 0.15)
    turns = Turns([engine])
    seats = [turns.seat(), turns.seat()]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda seat: seat.run(frame(0)), seats))
    waited = sorted(seat.waited_s for seat in seats)
    assert waited[0] < 0.1 < waited[1] < 0.5


@pytest.mark.parametrize("on_gpu", [True, False])
def test_a_seat_computes_where_its_engine_does(on_gpu: bool) -> None:
    engine = BrightnessEngine()
    engine.on_gpu = on_gpu
    assert Turns([engine]).seat().on_gpu is on_gpu
