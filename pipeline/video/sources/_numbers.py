"""Numbers of frames: the same frame has the same number wherever reading begins."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any

#: Largest distance, in packets, between the order of storage and the order of display.
_REORDERED = 16
#: Most missing frames that are remembered; after damage some of them arrive late.
_PASSED = 1000


class Numbers:
    """Numbers frames. The number of a frame is the number of packets that are shown before it, so damaged ones count.

    If timestamps are missing, equal or jump, frames are counted as they arrive instead.

    Args:
        step: duration of a frame in ticks.
        leap: a gap of so many ticks or more is a jump of the clock.
        ranked: whether numbers follow from timestamps; otherwise frames are counted from the start.

    Attributes:
        ranked: whether numbers have followed from timestamps until now.
        reordered: whether packets were stored in another order than that of display.
        packets: number of packets that were added.
        leap: see above.
    """

    def __init__(self, *, step: float, leap: float, ranked: bool = True) -> None:
        self.ranked = ranked
        self.reordered = False
        self.packets = 0
        self._shown = 0
        self._number = -1
        self._fall = _REORDERED * step
        self.leap = leap
        self._waiting: list[int] = []
        self._recent: deque[int] = deque(maxlen=2 * _REORDERED)
        self._latest: int | None = None
        self._passed: dict[int, int] = {}  # timestamp -> number of frames that are missing until now

    def begin(self, first: int) -> None:
        """Set how many packets are shown before the first one that is added."""
        self._shown = first

    def add(self, packet: Any) -> None:
        """Add a packet; call it in the order of the file."""
        if (
            not self.ranked or packet.size == 0 or packet.is_discard
        ):  # a packet that an edit list leaves out is not shown
            return
        self.packets += 1
        stamp = packet.pts
        if stamp is None or not self._regular(stamp):
            self.ranked = False
            return
        self._recent.append(stamp)
        heapq.heappush(self._waiting, stamp)

    def _regular(self, stamp: int) -> bool:
        if self._latest is not None:
            self.reordered = self.reordered or stamp < self._latest
            if abs(stamp - self._latest) >= self.leap or self._latest - stamp > self._fall or stamp in self._recent:
                return False
        self._latest = stamp if self._latest is None else max(stamp, self._latest)
        return True

    def of(self, stamp: int | None) -> int:
        """The number of the frame that the decoder gives next, from its presentation timestamp."""
        number = self._number + 1
        if self.ranked and stamp is not None:
            if stamp in self._passed:  # out of order, as after damage
                return self._passed.pop(stamp)
            while self._waiting and self._waiting[0] < stamp:
                if len(self._passed) == _PASSED:
                    del self._passed[next(iter(self._passed))]
                self._passed[heapq.heappop(self._waiting)] = self._shown
                self._shown += 1
            number = max(number, self._shown)
            if self._waiting and self._waiting[0] == stamp:
                heapq.heappop(self._waiting)
                self._shown += 1
        self._number = number
        return number


def packets_before(key: Any, *, container: Any, stream: Any, numbers: Numbers) -> int | None:
    """The number of frames before the key frame ``key``; None if timestamps are not regular.

    It comes from the file's index if that is complete. Otherwise the file is read up to the key frame, and not decoded.

    Args:
        key: the packet of the key frame.
        container, stream: opened for this call; nothing was read.
        numbers: new, for this stream.
    """
    if stream.frames and len(stream.index_entries) == stream.frames:
        return _in_index(key.dts, stream.index_entries, leap=numbers.leap)
    for packet in container.demux(stream):
        if packet.size and (packet.pts, packet.pos) == (key.pts, key.pos):  # dts may be unknown after a jump
            return numbers.packets
        numbers.add(packet)
        if not numbers.ranked:
            return None
    return None


def _in_index(stamp: int | None, index: Any, *, leap: float) -> int | None:
    before, last = 0, None
    for entry in index:
        if last is not None and not 0 < entry.timestamp - last < leap:
            return None
        if entry.timestamp == stamp:
            return before
        last = entry.timestamp
        before += not entry.is_discard
    return None
