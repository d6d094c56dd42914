"""The contract of a source: frames in order, from a file that waits or from something live that does not."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from pipeline.video.picture import SQUARE, Picture
from pipeline.video.sound import Sound


@dataclass(frozen=True)
class Frame:
    """One frame of a source.

    Attributes:
        name: unlike that of every other frame of the source; results are called by it.
        timestamp: seconds from the start of the source; None for images and where a reader cannot tell.
        picture: what it shows.
        arrived: when it was read, as time.perf_counter() says it.
    """

    name: str
    timestamp: float | None
    picture: Picture
    arrived: float = field(default_factory=time.perf_counter)


class Source(ABC):
    """Frames in order. What can be known to fail does so when it is opened, before an engine runs.

    Attributes:
        name: what people call it: a path, or an address without its password.
        stem: a short name for files made of it.
        paths: files and folders that are read; results must not replace them.
        live: frames come whether they are taken or not, so whoever is late takes the newest.
        waits: reading waits for others, so that a core is free meanwhile.
        alone: set from outside before :meth:`frames`: nothing is encoded meanwhile, so decoding may use more cores.
        is_video: the frames are one moving picture (and not images).
        fps: frames a second; None for images and when the source does not say.
        count: how many frames to expect, for progress only; None when unknown.
        stream: number of the video stream in its container; None where there are no numbered streams.
        aspect: width of a pixel by its height, when it is shown.
        sound: what can be copied into an overlay video; None where there is none, or it cannot be read.
        dropped: frames of something live that were replaced before :meth:`frames` could give them.
        damage: what of a file could not be read, known when :meth:`frames` has ended; empty when all of it could.
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

    @abstractmethod
    def frames(self, *, start: float = 0.0) -> Iterator[Frame]:
        """Frames from ``start`` seconds on. A source that is not live begins anew with every call.

        Raises:
            UserError: a frame cannot be read, or ``start`` is given for images or something live.
        """

    def stop(self) -> None:  # noqa: B027 - a file has nothing to wake up
        """End :meth:`frames` soon, wherever it waits; called from another thread."""

    def close(self) -> None:  # noqa: B027 - files are open only while they are read
        """Free what the source holds."""
