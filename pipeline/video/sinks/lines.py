"""JSON lines: one object per frame, for programs that read them during or after the run."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.confidence import confidence_facts
from pipeline.video.pixels import class_shares
from pipeline.video.sinks._base import Result, Stop
from pipeline.video.staged import StagedFile
from pipeline.video.zones import zone_shares

_BUFFER = 1 << 20  # bytes; larger than any line, so each line is written in one piece


def line_of(result: Result, labels: LabelSpec, *, source: str | None = None) -> bytes:
    """A result as one line of JSON, ASCII, with its end of line.

    Keys: ``index``, ``frame`` (name), ``time_s`` (from the start of the source; null if unknown), ``infer_ms``,
    ``age_ms`` (from the reading of the frame until now), ``dropped`` (frames dropped until now), ``shares`` (of the
    pixels, 0..1, every class by its name) and ``other`` (share of ignored and unknown ids). With zones also ``zones``:
    ``shares`` and ``other`` of each zone's pixels, by its name. With confidence also ``confidence`` (mean of the pixels
    of each class that occurs, 0..1, by its name) and ``mean_confidence`` (of all pixels), for the frame and each zone.

    Args:
        source: name of the source, as the key ``source``; None: the line has no such key.
    """
    age = time.perf_counter() - result.arrived
    shares, other = class_shares(result.pixels, labels)
    facts: dict[str, Any] = {
        **({} if source is None else {"source": source}),
        "index": result.index,
        "frame": result.name,
        "time_s": None if result.timestamp is None else round(result.timestamp, 6),
        "infer_ms": round(result.infer_ms, 3),
        "age_ms": round(1e3 * age, 3),
        "dropped": result.dropped,
        "shares": {name: round(share, 6) for name, share in shares.items()},
        "other": round(other, 6),
    }
    if result.confidence_sums is not None:
        facts |= confidence_facts(result.confidence_sums, result.pixels, labels)
    if result.zone_pixels:
        facts["zones"] = zone_shares(result.zone_pixels, labels, confidence_sums=result.zone_confidence_sums)
    return json.dumps(facts, allow_nan=False).encode() + b"\n"


class LinesSink(StagedFile):
    """A file of JSON lines. It gets its name after a normal exit. A run that is killed leaves complete lines in
    ``<name>.partial-*`` beside it."""

    wants_picture = False
    reads_confidence = True
    patient = True
    waits = False

    def __init__(self, path: Path, *, labels: LabelSpec, source: str | None = None) -> None:
        super().__init__(path)
        self.written: Path | None = path
        self._labels, self._source = labels, source
        self._file: BinaryIO | None = None

    def make(self) -> None:
        super().make()
        assert self.place is not None
        self._file = self.place.open("wb", buffering=_BUFFER)

    def write(self, result: Result) -> None:
        assert self._file is not None
        try:
            self._file.write(line_of(result, self._labels, source=self._source))
            self._file.flush()
        except OSError as error:
            raise self.unwritable(error) from error
        self.of_use = True

    def finish(self) -> None:
        assert self._file is not None
        self._file.close()

    def discard(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk, which was reported already
                self._file.close()
        super().discard()


class PrintedLinesSink:
    """JSON lines on standard output, each printed at once. If the reader ends, the run ends, and runs of other sources
    end with their next line.

    Raises:
        UserError: standard output is closed, or cannot be written.
    """

    wants_picture = False
    reads_confidence = True
    patient = waits = True
    written: Path | None = None

    def __init__(self, *, labels: LabelSpec, source: str | None = None) -> None:
        self._labels, self._source = labels, source

    def __enter__(self) -> PrintedLinesSink:
        if sys.stdout is None:
            raise UserError("--lines -: standard output is closed; name a file: --lines FILE")
        return self

    def write(self, result: Result) -> None:
        try:
            sys.stdout.buffer.write(line_of(result, self._labels, source=self._source))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            atexit.register(_discard_output)  # not now: each source should get the error
            raise Stop("nobody reads standard output any more") from None
        except OSError as error:
            atexit.register(_discard_output)
            raise UserError(f"standard output: cannot be written ({error.strerror}); free the place") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to complete."""


def _discard_output() -> None:
    """Discard the buffer of standard output: writing it would fail again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
