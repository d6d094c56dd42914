"""Bounded channels between threads: whoever is ahead waits, or, where only the newest counts, replaces."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):  # noqa: N818 - an end, no failure
    """Raised by :meth:`Channel.put` when nothing more is wanted: the thread that puts should end."""


class Channel(Generic[T]):
    """A queue with an end, for any number of threads on both sides.

    Args:
        capacity: how many items wait at most.
        newest: when full, the oldest item goes and is counted, and :meth:`put` never waits.

    Attributes:
        dropped: items that went unseen.
        deepest: the most items that ever waited.
    """

    def __init__(self, capacity: int, *, newest: bool = False) -> None:
        assert capacity > 0
        self.capacity = capacity
        self.dropped = 0
        self.deepest = 0
        self._newest = newest
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = self._closed = False
        self._depths = self._puts = 0

    def put(self, item: T) -> None:
        """Add an item; waits while the channel is full. Raises :class:`Closed` after :meth:`close` or :meth:`end`."""
        with self._changed:
            while len(self._items) >= self.capacity and not (self._closed or self._ended):
                if self._newest:
                    self._items.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait()
            if self._closed or self._ended:
                raise Closed
            self._depths += len(self._items)
            self._puts += 1
            self._items.append(item)
            self.deepest = max(self.deepest, len(self._items))
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more comes; what waits is still taken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody takes any more; what waits is forgotten."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Items until the end."""
        while True:
            items = self.take(1)
            if not items:
                return
            yield items[0]

    def take(self, most: int, *, wait: bool = True, timeout: float | None = None) -> list[T]:
        """Up to ``most`` items, at least one; none at the end. Waits for all of them, or else for the first only.

        Args:
            timeout: seconds without anything new after which what there is, or nothing, is given.
        """
        items: list[T] = []
        with self._changed:
            while len(items) < most:
                if self._items:
                    items.append(self._items.popleft())
                    self._changed.notify_all()
                elif self._ended or self._closed or (items and not wait) or not self._changed.wait(timeout):
                    break
        return items

    @property
    def finished(self) -> bool:
        """Whether everything was taken and nothing more comes."""
        with self._changed:
            return (self._ended or self._closed) and not self._items

    @property
    def mean_depth(self) -> float:
        """Items that were waiting when another one came, on average."""
        return self._depths / self._puts if self._puts else 0.0
