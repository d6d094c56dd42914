"""Interlaced frames as progressive ones, by FFmpeg's bwdif filter: as many frames, with the same times."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from pipeline.video.sources._facts import Remarks

#: Frames in, as many frames out; only those that are marked as interlaced are changed. One thread, as decoders have.
_FILTER = "mode=send_frame:parity=auto:deint=interlaced"
_MADE = "its frames are interlaced and are made progressive; --no-deinterlace keeps them"
_KEPT = "its frames are interlaced and kept so: what moves has combed edges; the overlay video is marked as progressive"


class Progressive:
    """Passes on the frames of one stream, deinterlaced where they say that they need it.

    Until the first interlaced frame nothing is done. From it on frames come one frame late, because the filter looks at
    the next frame, too. Times are those of the frames that went in.

    Args:
        av: the module.
        wanted: False: frames are passed on as they are, with a warning.
    """

    def __init__(self, av: Any, *, wanted: bool, remarks: Remarks) -> None:
        self._av = av
        self._wanted = wanted
        self._remarks = remarks
        self._told: bool | None = None  # once, not with every frame
        self._graph: Any = None
        self._kind: tuple[object, ...] = ()
        self._inside: deque[Any] = deque()  # frames as they went into the filter

    def of(self, frames: Iterator[Any]) -> Iterator[Any]:
        """The frames of an iterator; what it raises is raised here, after the frames before it."""
        for frame in frames:
            yield from self.feed(frame)
        yield from self.rest()

    def feed(self, frame: Any) -> Iterator[Any]:
        """What comes out when an av.VideoFrame goes in: it, nothing yet, or one or more frames."""
        if self._graph is None:
            if not frame.interlaced_frame:
                yield frame
                return
            if self._told is None:
                self._told = self._wanted
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
                self._remarks.warn(f"its frames ({frame.format.name}) cannot be made progressive and stay interlaced")
                yield frame
                return
            self._kind = kind
        self._inside.append(frame)
        self._graph.push(frame)
        yield from self._out()

    def rest(self) -> Iterator[Any]:
        """What is still in the filter; to be called at the end."""
        if self._graph is None:
            return
        self._graph.push(None)
        yield from self._out()
        yield from self._inside  # a frame without a neighbour may stay within
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
