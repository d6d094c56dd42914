"""An encoder that always runs and keeps its last packets, and clips into which these packets are copied."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.video.sinks._base import Result
from pipeline.video.sinks.h264 import _TIME_BASE, H264Sink, _Disk

log = logging.getLogger(__name__)

ROUNDING = 1e-4  # seconds: times are sums of floats
MEMORY = 128 << 20  # most bytes of packets that are kept


class Piece(NamedTuple):
    """The packet of one frame.

    Attributes:
        seconds: time of the frame, from the caller of :meth:`Recorder.record`.
        is_key: whether it can be decoded without other packets.
        pts, duration: in ticks of a clock that is the same for all pieces.
        data: H.264.
    """

    seconds: float
    is_key: bool
    pts: int
    duration: int
    data: bytes


class _Memory:
    """Replaces a container: its packets go to ``keep``."""

    def __init__(self, container: Any, keep: Callable[[Iterable[Any]], None]) -> None:
        self._container, self._keep = container, keep
        self.add_stream, self.close = container.add_stream, container.close

    def mux(self, packets: Iterable[Any]) -> None:
        self._container.start_encoding()  # once: the stream has the encoder's parameters from then on
        self._keep(packets)


class Recorder(H264Sink):
    """Encodes overlays and keeps the packets of the last seconds, beginning with a key frame. It writes no file. It is
    not used as a context manager: call :meth:`record`, then :meth:`flush` and :meth:`close`.

    Args:
        path: for messages.
        keep: least seconds of packets before the second last frame that are kept, if they need less than ``memory``.
        memory: most bytes of packets that are kept.
        options: see :class:`pipeline.video.sinks.H264Sink`.
    """

    def __init__(self, path: Path, *, keep: float, memory: int = MEMORY, **options: Any) -> None:
        super().__init__(path, **options)
        self._keep, self._limit = keep, memory
        self._groups: deque[list[Piece]] = deque()  # each from a key frame to the next one
        self._bytes = 0
        self._now = 0.0
        self._horizon = -math.inf  # packets before this time are not needed
        self._encoding: deque[float] = deque()  # seconds of the frames that the encoder still has
        self._new: list[Piece] = []
        self._warned = False

    @property
    def stream(self) -> Any:
        """The stream of the encoder, with the parameters that a clip needs."""
        return self._stream

    @property
    def held(self) -> int:
        """Bytes of all packets that are kept."""
        return self._bytes

    @property
    def newest(self) -> float:
        """Seconds of the last piece; less than any time when there is none."""
        return self._groups[-1][-1].seconds if self._groups else -math.inf

    def record(self, result: Result, seconds: float) -> list[Piece]:
        """Encode a frame. Returns the pieces that the encoder has finished, of this frame or of earlier ones.

        Args:
            result: must have its picture.
            seconds: its time; not before that of the last one.
        """
        self._horizon = self._now - self._keep  # an event of now may have begun a frame before now - keep
        self._now = seconds
        self._encoding.append(seconds)
        self.write(replace(result, timestamp=seconds))
        return self._taken()

    def flush(self) -> list[Piece]:
        """The last pieces; do not call :meth:`record` after it."""
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
        return self._taken()

    def close(self) -> None:
        """Free the encoder."""
        self._groups.clear()
        self.discard()

    def since(self, seconds: float) -> Iterator[Piece]:
        """The pieces from the last key frame at or before ``seconds`` on; all pieces if there is no such key frame."""
        groups = list(self._groups)
        first = max((i for i, group in enumerate(groups) if group[0].seconds <= seconds + ROUNDING), default=0)
        return (piece for group in groups[first:] for piece in group)

    def _open(self) -> Any:
        self._disk = _Disk(Path(os.devnull))
        options = {"movflags": "+empty_moov+frag_keyframe"}  # of a file that is not used
        return _Memory(self._av.open(self._disk, "w", format="mp4", options=options), self._take)

    def _take(self, packets: Iterable[Any]) -> None:
        for packet in packets:  # without B frames they come in the order of the frames
            ticks = int(packet.pts * packet.time_base / _TIME_BASE)
            piece = Piece(self._encoding.popleft(), packet.is_keyframe, ticks, self._frame_ticks, bytes(packet))
            self._new.append(piece)

    def _taken(self) -> list[Piece]:
        new, self._new = self._new, []
        for piece in new:
            if piece.is_key:
                self._groups.append([])
            self._groups[-1].append(piece)
            self._bytes += len(piece.data)
        while len(self._groups) > 1:
            enough = self._groups[1][0].seconds <= self._horizon
            if not enough and self._bytes <= self._limit:
                break
            if not enough and not self._warned:
                self._warned = True
                log.warning("%s: %g s of frames need more memory than %d MB: clips begin later", self.path, self._keep,
                            self._limit >> 20)  # fmt: skip
            self._bytes -= sum(len(piece.data) for piece in self._groups.popleft())
        return new


class _NoEncoder:
    """Replaces the encoder of a file whose packets are encoded already."""

    def encode(self, frame: None) -> list[Any]:
        return []


class ClipFile(H264Sink):
    """An MP4 of pieces, which are not encoded again: ``NAME-0001.mp4``, or the next free number.

    Args:
        folder: of the file.
        name: first part of the file's name.

    Attributes:
        first: the first piece; None before it.
        seconds: time of its last piece.
        frames: number of pieces.
    """

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder / f"{name}.mp4")
        self._folder, self._name = folder, name
        self._stream = _NoEncoder()
        self._copied: Any = None
        self.first: Piece | None = None
        self.seconds = 0.0
        self.frames = 0

    def add(self, piece: Piece, stream: Any) -> None:
        """Append a piece; the first one is a key frame.

        Args:
            stream: of the encoder.

        Raises:
            UserError: it cannot be written.
        """
        try:
            if self.first is None:
                self.first = piece
                self._container = self._open()
                self._copied = self._container.add_stream_from_template(stream)
            packet = self._av.Packet(piece.data)
            packet.stream, packet.time_base = self._copied, _TIME_BASE
            packet.pts = packet.dts = piece.pts - self.first.pts
            packet.duration, packet.is_keyframe = piece.duration, piece.is_key
            self._container.mux(packet)
            assert self._disk is not None
            self._disk.check()
        except (self._av.error.FFmpegError, OSError) as error:
            raise self.unwritable(error) from error
        self.seconds = piece.seconds
        self.frames += 1
        self.of_use = True

    def commit(self) -> None:
        """Rename to a free name. An empty file reserves it first, so two programs never replace each other's clip."""
        number = 0
        while True:
            number += 1
            self.path = self._folder / f"{self._name}-{number:04d}.mp4"
            with contextlib.suppress(FileExistsError):
                self.path.open("xb").close()
                break
        try:
            super().commit()
        except OSError:
            self.path.unlink()
            raise
        self.written = self.path
