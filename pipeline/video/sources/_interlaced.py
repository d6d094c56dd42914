"""Deinterlacing with FFmpeg's bwdif filter. The number of frames and their times stay the same."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from pipeline.video.sources._facts import Remarks

#: One frame out per frame in; only frames that are marked as interlaced are changed. One thread, as in decoders.
_FILTER = "mode=send_frame:parity=auto:deint=interlaced"
_MADE = "its frames are interlaced and are deinterlaced; --no-deinterlace keeps them"
_KEPT = "its frames are interlaced and kept so: what moves has combed edges; the overlay video is marked as progressive"


class Progressive:
    """Deinterlaces those frames of one stream that are marked as interlaced.

    Frames before the first interlaced one are not filtered. After it each frame is returned one frame late, because
    the filter also needs the next frame. Each frame keeps its time.

    Args:
        av: the module.
        wanted: whether to deinterlace; otherwise interlaced frames are only reported, in one warning.
    """

    def __init__(self, av: Any, *, wanted: bool, remarks: Remarks) -> None:
        self._av = av
        self._wanted = wanted
        self._remarks = remarks
        self._warned = False
        self._graph: Any = None
        self._kind: tuple[object, ...] = ()
        self._inside: deque[Any] = deque()  # input frames that the filter has not returned yet

    def of(self, frames: Iterator[Any]) -> Iterator[Any]:
        """The frames of an iterator. An exception of the iterator is raised after the frames before it."""
        for frame in frames:
            yield from self.feed(frame)
        yield from self.rest()

    def feed(self, frame: Any) -> Iterator[Any]:
        """Put in an av.VideoFrame; yields the frames that are ready: none, one or more."""
        if self._graph is None:
            if not frame.interlaced_frame:
                yield frame
                return
            if not self._warned:
                self._warned = True
                self._remarks.warn(_MADE if self._wanted else _KEPT)
            if not self._wanted:
                yield frame
                return
        kind = (frame.width, frame.height, frame.format.name)
        if kind != self._kind:
            yield from self.rest()
            try:
                self._graph = self._filter(frame)
            except (self._av.error.FFmpegError, ValueError):
                self._wanted = False
                self._remarks.warn(f"its frames ({frame.format.name}) cannot be deinterlaced and stay interlaced")
                yield frame
                return
            self._kind = kind
        self._inside.append(frame)
        self._graph.push(frame)
        yield from self._out()

    def rest(self) -> Iterator[Any]:
        """The frames that are still in the filter, at the end."""
        if self._graph is None:
            return
        self._graph.push(None)
        yield from self._out()
        yield from self._inside  # the filter may keep a frame that has no neighbour
        self._inside.clear()
        self._graph, self._kind = None, ()

    def _filter(self, frame: Any) -> Any:
        graph = importlib.import_module("av.filter").Graph()
        first = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or self._av.time_base
        )
        steps = [first, graph.add("bwdif", f"{_FILTER}:threads=1"), graph.add("buffersink")]
        for step, following in pairwise(steps):
            step.link_to(following)
        graph.configure()
        return graph

    def _out(self) -> Iterator[Any]:
        while self._inside:
            try:
                frame = self._graph.pull()
            except (BlockingIOError, EOFError, self._av.error.BlockingIOError, self._av.error.EOFError):
                return
            before = self._inside.popleft()
            frame.time_base, frame.pts, frame.dts = before.time_base, before.pts, before.dts
            frame.duration = before.duration
            yield frame
