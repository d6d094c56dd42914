"""Queues and channels: order, room, ends."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.video.workers.flow import Channel, Closed, Queue


def test_a_queue_keeps_order_and_has_room() -> None:
    queue: Queue[int] = Queue(2)
    assert queue.room == 2
    queue.put(0)
    queue.put(1)
    assert (queue.room, len(queue), queue.first()) == (0, 2, 0)
    with pytest.raises(AssertionError):
        queue.put(2)
    assert [queue.take(), queue.take()] == [0, 1]
    assert (queue.deepest, queue.dropped) == (2, 0)


def test_only_the_newest_counts() -> None:
    queue: Queue[int] = Queue(1, newest=True)
    for item in range(10):
        assert queue.room > 0
        queue.put(item)
    queue.end()
    assert queue.take() == 9
    assert queue.dropped == 9


def test_after_the_end_waiting_items_are_taken() -> None:
    queue: Queue[int] = Queue(2)
    queue.put(0)
    queue.end()
    assert queue.stopped
    assert not queue.finished
    with pytest.raises(AssertionError):
        queue.put(1)
    assert queue.take() == 0
    assert queue.finished


def test_a_closed_queue_drops_its_items() -> None:
    queue: Queue[int] = Queue(2)
    queue.put(0)
    queue.close()
    assert queue.finished
    assert len(queue) == 0


def test_depths() -> None:
    queue: Queue[int] = Queue(4)
    assert queue.mean_depth == 0
    for item in range(4):
        queue.put(item)
    assert queue.mean_depth == pytest.approx(1.5)  # 0, 1, 2 and 3 waited
    assert queue.deepest == 4


def test_a_channel_keeps_order_to_the_end() -> None:
    channel: Channel[int] = Channel(2)

    def produce() -> None:
        for item in range(100):
            channel.put(item)
        channel.end()

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    assert list(channel) == list(range(100))
    thread.join(5)
    assert channel.finished


def test_a_fast_writer_waits() -> None:
    channel: Channel[int] = Channel(2)
    channel.put(0)
    channel.put(1)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (channel.put(2), done.set()), daemon=True)
    thread.start()
    assert not done.wait(0.1)
    assert channel.take() == [0]
    assert done.wait(5)
    thread.join(5)


def test_put_after_close() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(0)
    ended = threading.Event()

    def put() -> None:
        with pytest.raises(Closed):
            channel.put(1)
        ended.set()

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    time.sleep(0.05)
    channel.close()
    assert ended.wait(5)
    thread.join(5)
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


def test_take_has_a_timeout() -> None:
    channel: Channel[int] = Channel(1)
    start = time.perf_counter()
    assert channel.take(timeout=0.05) == []
    assert time.perf_counter() - start >= 0.05
    assert not channel.finished
