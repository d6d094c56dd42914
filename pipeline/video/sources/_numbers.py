"""Numbers of frames: the same frame has the same number wherever reading begins."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any

#: Packets by which frames may be stored out of the order in which they are shown.
_REORDERED = 16
#: Frames that did not come in their turn and are waited for; damaged parts have some that come late.
_PASSED = 1000


class Numbers:
    """Numbers frames by how many packets are shown before them, so that damaged ones count, too.

    Where that cannot be known (timestamps are missing, equal, or leap), frames are numbered as they come.

    Args:
        step: ticks of a frame.
        leap: ticks from which on a gap is a fault.
        ranked: False: number frames as they come, from the start.

    Attributes:
        ranked: whether numbers are known by timestamps until now.
        reordered: whether packets came out of the order in which they are shown.
        packets: how many were added.
        leap: ticks from which on a gap is a fault.
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
        self._passed: dict[int, int] = {}  # numbers of frames that did not come when it was their turn

    def begin(self, first: int) -> None:
        """So many packets are shown before those that were added."""
        self._shown = first

    def add(self, packet: Any) -> None:
        """A packet, in the order of the file."""
        if not self.ranked or packet.size == 0 or packet.is_discard:  # what an edit list leaves out is not shown
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
        """The number of the frame that is decoded next, by its presentation timestamp."""
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
    """How many frames are stored before the key frame ``key``; None where timestamps do not tell.

    Taken from the file's index where that is complete; else the file is read up to there, which decodes nothing.

    Args:
        key: the packet of the key frame.
        container, stream: opened anew, nothing read yet.
        numbers: as for the frames of this stream from its start.
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
