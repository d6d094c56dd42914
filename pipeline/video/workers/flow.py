"""Queues of limited length. A full queue lets the writer wait, or drops its oldest item."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):  # noqa: N818 - an end, not a failure
    """Raised by :meth:`Channel.put` if the reader wants no more items: the writer should end."""


class Queue(Generic[T]):
    """A queue with an end. The caller holds the lock that guards it, and no method waits.

    Args:
        capacity: largest number of waiting items.
        newest: whether a full queue drops its oldest item and counts it.

    Attributes:
        ended: whether no more items come; waiting items are still taken.
        closed: whether no more items are taken.
        dropped: number of dropped items.
        deepest: largest number of items that have waited.
    """

    def __init__(self, capacity: int, *, newest: bool = False) -> None:
        assert capacity > 0
        self.capacity = capacity
        self.ended = self.closed = False
        self.dropped = 0
        self.deepest = 0
        self._newest = newest
        self._items: deque[T] = deque()
        self._depths = self._puts = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def room(self) -> int:
        """Number of items that can be put."""
        return self.capacity if self._newest else max(0, self.capacity - len(self._items))

    @property
    def stopped(self) -> bool:
        """Whether no more items can be put."""
        return self.ended or self.closed

    @property
    def finished(self) -> bool:
        """Whether there are no items, and no more will come."""
        return self.stopped and not self._items

    def put(self, item: T) -> None:
        """Add an item; there must be room."""
        assert self.room > 0
        assert not self.stopped
        if len(self._items) == self.capacity:
            self._items.popleft()
            self.dropped += 1
        self._depths += len(self._items)
        self._puts += 1
        self._items.append(item)
        self.deepest = max(self.deepest, len(self._items))

    def first(self) -> T:
        """The item that is taken next; there must be one."""
        return self._items[0]

    def take(self) -> T:
        """Remove the oldest item; there must be one."""
        return self._items.popleft()

    def end(self) -> None:
        """No more items come; waiting items are still taken."""
        self.ended = True

    def close(self) -> None:
        """No more items are taken; waiting items are removed."""
        self.closed = True
        self._items.clear()

    @property
    def mean_depth(self) -> float:
        """Mean number of items that waited when another one came."""
        return self._depths / self._puts if self._puts else 0.0


class Channel(Generic[T]):
    """A :class:`Queue` between threads that wait for each other."""

    def __init__(self, capacity: int) -> None:
        self._queue: Queue[T] = Queue(capacity)
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Add an item; waits while there is no room. Raises :class:`Closed` after :meth:`close` or :meth:`end`."""
        with self._changed:
            while not (self._queue.room or self._queue.stopped):
                self._changed.wait()
            if self._queue.stopped:
                raise Closed
            self._queue.put(item)
            self._changed.notify_all()

    def take(self, timeout: float | None = None) -> list[T]:
        """The oldest item, alone in a list; an empty one at the end, or after ``timeout`` seconds without any."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._queue) or self._queue.stopped, timeout)
            items = [self._queue.take()] if len(self._queue) else []
            self._changed.notify_all()
            return items

    def __iter__(self) -> Iterator[T]:
        """Items until the end."""
        while items := self.take():
            yield items[0]

    def end(self) -> None:
        """See :meth:`Queue.end`."""
        with self._changed:
            self._queue.end()
            self._changed.notify_all()

    def close(self) -> None:
        """See :meth:`Queue.close`."""
        with self._changed:
            self._queue.close()
            self._changed.notify_all()

    @property
    def finished(self) -> bool:
        """Whether all items were taken and no more come."""
        with self._changed:
            return self._queue.finished
