from __future__ import annotations

import threading
import time

import pytest

from pipeline.video.crew import Crew
from pipeline.video.flow import Channel, Closed


def test_order_and_end() -> None:
    channel: Channel[int] = Channel(2)

    def produce() -> None:
        for item in range(100):
            channel.put(item)
        channel.end()

    crew = Crew()
    thread = crew.start("produce", produce)
    crew.begin()
    assert list(channel) == list(range(100))
    thread.join()
    assert crew.error is None
    assert channel.deepest <= 2
    assert channel.dropped == 0


def test_whoever_is_ahead_waits() -> None:
    channel: Channel[int] = Channel(2)
    channel.put(0)
    channel.put(1)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (channel.put(2), done.set()))
    thread.start()
    assert not done.wait(0.1)
    assert channel.take(1) == [0]
    assert done.wait(5)
    thread.join()
    assert channel.deepest == 2


def test_only_the_newest_counts() -> None:
    channel: Channel[int] = Channel(1, newest=True)
    for item in range(10):
        channel.put(item)
    channel.end()
    assert list(channel) == [9]
    assert channel.dropped == 9


def test_nobody_takes_any_more() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(0)
    crew = Crew()
    thread = crew.start("put", lambda: channel.put(1))
    crew.begin()
    time.sleep(0.05)
    channel.close()
    thread.join()
    assert crew.error is None, "Closed is an end, not a failure"
    with pytest.raises(Closed):
        channel.put(2)
    assert list(channel) == []


def test_put_after_the_end() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(0)
    channel.end()
    with pytest.raises(Closed):
        channel.put(1)
    assert list(channel) == [0], "what waits is still taken"


def test_taking_several() -> None:
    channel: Channel[int] = Channel(5)
    for item in range(3):
        channel.put(item)
    assert channel.take(2) == [0, 1]
    assert channel.take(4, wait=False) == [2]
    channel.put(3)
    threading.Timer(0.05, lambda: (channel.put(4), channel.end())).start()
    assert channel.take(4) == [3, 4], "waits for all of them until the end"
    assert channel.take(4) == []


def test_depths() -> None:
    channel: Channel[int] = Channel(4)
    assert channel.mean_depth == 0
    for item in range(4):
        channel.put(item)
    assert channel.mean_depth == pytest.approx(1.5)  # 0, 1, 2 and 3 waited
    assert channel.deepest == 4


def test_the_first_error_is_kept() -> None:
    crew = Crew()
    crew.begin()

    def fail(text: str) -> None:
        raise RuntimeError(text)

    crew.start("first", lambda: fail("first")).join()
    crew.start("second", lambda: fail("second")).join()
    assert str(crew.error) == "first"


def test_nobody_works_before_all_are_there() -> None:
    crew, worked = Crew(), threading.Event()
    thread = crew.start("work", worked.set)
    assert not worked.wait(0.05)
    crew.begin()
    crew.call_off()
    thread.join(5)
    assert worked.is_set(), "it is too late to call it off"


def test_called_off() -> None:
    crew, worked = Crew(), threading.Event()
    thread = crew.start("work", worked.set)
    crew.call_off()
    thread.join(5)
    assert not thread.is_alive()
    assert not worked.is_set()
