"""The interface of all sources of frames: files, images and live sources."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from pipeline.video.drawing.picture import SQUARE, Picture
from pipeline.video.sound import Sound


@dataclass(frozen=True)
class Frame:
    """One frame of a source.

    Attributes:
        name: unique among the frames of the source; files of results have this name.
        timestamp: seconds from the start of the source; None for images and if the reader does not know it.
        picture: its pixels.
        arrived: time.perf_counter() when it was read.
    """

    name: str
    timestamp: float | None
    picture: Picture
    arrived: float = field(default_factory=time.perf_counter)


class Source(ABC):
    """Frames in order. As many errors as possible are raised when it is opened, before an engine runs.

    Attributes:
        name: for messages: a path, or an address without its password.
        stem: a short name for files of results.
        paths: files and folders that are read; results must not replace them.
        live: whether frames arrive at their own pace. A slow reader gets the newest frame and misses others.
        waits: whether reading waits for another program or machine, so that its core is free during that time.
        alone: set by the caller before :meth:`frames`: no encoder runs, so the decoder may use more cores.
        is_video: whether the frames are a video (and not separate images).
        fps: frame rate; None for images and if the source has no rate.
        count: expected number of frames, for progress only; None if unknown.
        stream: number of the video stream in its container; None if streams have no numbers.
        aspect: displayed width of a pixel divided by its displayed height.
        sound: audio that can be copied into an overlay video; None if there is none, or it cannot be read.
        dropped: number of frames of a live source that :meth:`frames` did not yield, because newer ones came.
        damage: which part of a file could not be read; known after :meth:`frames`, empty if the file is whole.
        skipped: files that could not be read; each had a warning.
    """

    name: str
    stem: str
    paths: Sequence[Path] = ()
    live: bool = False
    waits: bool = False
    alone: bool = False
    is_video: bool = True
    fps: float | None = None
    count: int | None = None
    stream: int | None = None
    aspect: Fraction = SQUARE
    sound: Sound | None = None
    dropped: int = 0
    damage: str = ""
    skipped: Sequence[str] = ()

    @abstractmethod
    def frames(self, *, start: float = 0.0) -> Iterator[Frame]:
        """Frames from ``start`` seconds on. A source that is not live begins again with every call.

        Raises:
            UserError: a frame cannot be read, or ``start`` is given for images or a live source.
        """

    def stop(self) -> None:  # noqa: B027 - a file has nothing to wake up
        """End :meth:`frames` soon, also while it waits; called from another thread."""

    def close(self) -> None:  # noqa: B027 - files are open only while they are read
        """Close files and connections."""
