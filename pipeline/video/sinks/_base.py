"""The interface of a sink, and the result of a frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, runtime_checkable

import numpy as np

from pipeline.frames import Array
from pipeline.video.drawing.picture import Box, Picture
from pipeline.video.view import place


@dataclass(frozen=True)
class Result:
    """One segmented frame.

    Attributes:
        index: its number in this run, from 0.
        name, timestamp, arrived: as the source has them, see :class:`pipeline.video.sources.Frame`.
        size: (height, width) of the frame.
        box: the part of the frame that was segmented.
        label_map: (h, w) train ids of that part, as the engine gives them.
        pixels: (256,) number of pixels of ``label_map`` with each id.
        infer_ms: time of the engine in milliseconds.
        dropped: number of frames of a live source that were dropped until now.
        picture: the overlay; None if no sink needs one.
        frame: the frame without the overlay.
        zone_pixels: (256,) number of pixels with each id in each zone, by the zone's name.
        confidence: (h, w) probability, 0 to 1 as 0 to 255, of the label that the network gave to each pixel of
            ``label_map``; 0 in ignored zones. None: the engine gives none, or nothing in this run uses it.
        confidence_sums: (256,) sum of ``confidence`` of the pixels of each id, see
            :func:`pipeline.video.confidence.mean_of`; None without ``confidence``.
        zone_confidence_sums: (256,) the same in each zone, by the zone's name.
    """

    index: int
    name: str
    timestamp: float | None
    arrived: float
    size: tuple[int, int]
    box: Box
    label_map: Array
    pixels: np.ndarray[tuple[int], np.dtype[np.int64]]
    infer_ms: float
    dropped: int
    picture: Picture | None
    frame: Picture | None = None
    zone_pixels: Mapping[str, np.ndarray[tuple[int], np.dtype[np.int64]]] = field(default_factory=dict)
    confidence: Array | None = None
    confidence_sums: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None
    zone_confidence_sums: Mapping[str, np.ndarray[tuple[int], np.dtype[np.int64]]] = field(default_factory=dict)

    def full_label_map(self, outside: int) -> Array:
        """(H, W) train ids at the size of the frame; ``outside`` where it was not segmented."""
        return place(self.label_map, self.box, size=self.size, outside=outside)

    def full_confidence(self) -> Array:
        """(H, W) confidence at the size of the frame; 0 where it was not segmented.

        It is enlarged like labels, by the nearest value, so each pixel has the confidence of its own label, and means
        per class do not change. Interpolation would mix the values of two labels at every border.
        """
        assert self.confidence is not None, "needs a run that asks the engine for confidence"
        return place(self.confidence, self.box, size=self.size, outside=0)


class Stop(Exception):  # noqa: N818 - nothing went wrong
    """Raised by a sink when the viewer wants to stop: the run ends cleanly, and all files are completed."""


class Sink(Protocol):
    """Takes results in order, one at a time; the thread may change between calls.

    A context manager: entering checks that the target can be written; a normal exit completes it.

    Attributes:
        wants_picture: whether it needs the overlay drawn.
        patient: whether the pipeline waits for it. It does not wait for a window or a web page.
        waits: whether writing waits for viewers or another program, so that its core is free meanwhile.
        written: path of its result after a normal exit; None for windows and pages.
    """

    wants_picture: bool
    patient: bool
    waits: bool

    @property
    def written(self) -> Path | None: ...

    def __enter__(self) -> object: ...

    def write(self, result: Result) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class HurriedSink(Sink, Protocol):
    """A sink that waits for another program while it writes."""

    def hurry(self) -> None:
        """Stop waiting: no more frames are read, because the run was interrupted or failed. Called from any thread,
        once or more."""


@runtime_checkable
class ConfidenceReader(Sink, Protocol):
    """A sink that uses the confidence of results if the engine gives it."""

    reads_confidence: bool


@runtime_checkable
class MainThreadSink(Sink, Protocol):
    """A sink whose methods are all called from the main thread of the program, as windows need it. It gets only the
    newest results, and may raise :class:`Stop`."""

    def poll(self) -> None:
        """Handle the input of the user; called at least ten times per second, also if no results come."""
