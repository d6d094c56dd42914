"""Several cameras inside another Python program: the newest frame of each, with its label map."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.video.engines import open_engines
from pipeline.video.loop import segment
from pipeline.video.selection import NoFramesError
from pipeline.video.sinks import Result, Stop
from pipeline.video.sources import Source, open_source
from pipeline.video.turns import Turns
from pipeline.video.view import Looking, Region

log = logging.getLogger(__name__)

_PATIENCE_S = 2.0  # for a source that does not answer after the caller has stopped


class Watched(NamedTuple):
    """A frame of a source.

    Attributes:
        source: its name.
        frame: (H, W, 3) BGR uint8.
        mask: (H, W) uint8 train ids; the ignored id outside the region.
        result: time, figures, confidence; see :class:`pipeline.video.sinks.Result`.
    """

    source: str
    frame: Array
    mask: Array
    result: Result


def watch(
    engine: str | Path,
    sources: Mapping[str, str | int | Source],
    *,
    threads: int | None = None,
    contexts: int | None = None,
    resize: str = "stretch",
    region: str | None = None,
) -> Iterator[Watched]:
    """Frames of several sources, segmented at the same time on one engine. Each is yielded as soon as it is ready.

    The sources take fair turns. A file gives every frame. A live source gives its newest frame, and other frames are
    dropped. A source that fails is reported in the log, and the others continue. The iteration ends when
    all sources have ended; leaving it early ends them.

    Args:
        engine: engine folder, built on this machine, or a folder of variants, of which the fastest is used.
        sources: source by name: text as for ``stages/infer.py``, the number of a camera, or an open source.
        threads, contexts: see :func:`pipeline.video.engines.open_engines`.
        resize, region: see :class:`pipeline.video.segmenter.Segmenter`.

    Raises:
        UserError: no source, the engine was not built on this machine, an invalid option; or all sources failed: the
            first error.

    Example:
        for name, frame, mask, result in watch("artifacts/engines/kd", {"front": "0", "rear": "rtsp://rear/1"}):
            ...
    """
    if not isinstance(sources, Mapping) or not sources:
        raise UserError(f"watch: got {sources!r} as sources; needed: a mapping of names to sources, at least one")
    looking = Looking(resize, Region.parse(region) if region else None)
    engines, facts = open_engines(Path(engine), threads=threads, contexts=contexts, live=True, sources=len(sources))
    try:
        yield from _Watch(sources, Turns(engines), labels=facts.labels, looking=looking)
    finally:
        for opened in engines:
            opened.close()


class _Mailbox:
    """Holds at most one frame of each source, for a program that takes them one by one, the oldest first."""

    def __init__(self, senders: int) -> None:
        self._waiting: dict[str, Watched] = {}
        self._senders = senders
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, watched: Watched, *, patient: bool) -> None:
        """Put a frame. It replaces a waiting frame of its source; ``patient``: it waits until that one is taken.

        Raises:
            Stop: the caller has stopped.
        """
        with self._changed:
            if patient:
                self._changed.wait_for(lambda: self._is_closed or watched.source not in self._waiting)
            if self._is_closed:
                raise Stop("the caller takes no more frames")
            self._waiting[watched.source] = watched
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Watched]:
        """Frames until all senders have ended."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or not self._senders)
                if not self._waiting:
                    return
                watched = self._waiting.pop(next(iter(self._waiting)))
                self._changed.notify_all()
            yield watched

    def end(self) -> None:
        """One of the senders has ended."""
        with self._changed:
            self._senders -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """The caller takes no more frames."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class _Watch:
    """Runs of all sources, each in a thread."""

    def __init__(
        self, sources: Mapping[str, str | int | Source], turns: Turns, *, labels: LabelSpec, looking: Looking
    ) -> None:
        self._sources, self._turns, self._labels, self._looking = sources, turns, labels, looking
        self._mailbox = _Mailbox(len(sources))
        self._until = threading.Event()
        self._errors: list[BaseException] = []

    def __iter__(self) -> Iterator[Watched]:
        threads = [
            threading.Thread(target=self._work, args=(name,), name=f"segpress-{name}", daemon=True)
            for name in self._sources
        ]
        for thread in threads:
            thread.start()
        try:
            yield from self._mailbox
        finally:
            self._until.set()
            self._mailbox.close()
            deadline = time.monotonic() + _PATIENCE_S
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        problems = [error for error in self._errors if not isinstance(error, UserError)]
        if problems or len(self._errors) == len(self._sources):
            raise (problems or self._errors)[0]

    def _work(self, name: str) -> None:
        try:
            self._run(name)
        except (NoFramesError, KeyboardInterrupt):
            pass  # it was ended before its first frame
        except BaseException as error:
            self._errors.append(error)
            if not self._until.is_set():
                log.error("error: %s: %s", name, error)
        self._mailbox.end()

    def _run(self, name: str) -> None:
        given = self._sources[name]
        source = given if isinstance(given, Source) else open_source(str(given))
        try:
            if self._until.is_set():  # the caller has stopped, and the engine may be closed
                return
            segment(
                source,
                [self._turns.seat()],
                labels=self._labels,
                sinks=[_Handing(name, self._mailbox, outside=self._labels.ignore_index, patient=not source.live)],
                looking=self._looking,
                engines_wait=True,
                until=self._until,
            )
        finally:
            source.close()


class _Handing:
    """Hands results to the caller: all of a file; of a live source the newest one, when the last was taken."""

    wants_picture = False
    waits = reads_confidence = True
    written = None

    def __init__(self, name: str, mailbox: _Mailbox, *, outside: int, patient: bool) -> None:
        self.patient = patient
        self._name, self._mailbox, self._outside = name, mailbox, outside

    def __enter__(self) -> _Handing:
        return self

    def write(self, result: Result) -> None:
        assert result.frame is not None
        watched = Watched(self._name, result.frame.bgr(), result.full_label_map(self._outside), result)
        self._mailbox.put(watched, patient=self.patient)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to complete."""
