"""Overlays as an HLS playlist: a folder that any web server can serve."""

from __future__ import annotations

import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.video.sinks._destination import Destination, of_playlist, segment_stem
from pipeline.video.sinks.stream import StreamSink


class PlaylistSink(StreamSink):
    """An HLS playlist, ``NAME.m3u8``, with segments of two seconds beside it: a folder that any web server can serve.

    Readers never see an incomplete playlist or segment. Of a file all frames are written, as fast as possible, and all
    segments are kept. Of a live source the last 30 seconds are kept. At the end of the run the playlist is closed. The
    segments of an older playlist of this name are removed after the new one has replaced it.
    """

    def __init__(self, path: Path, *, live: bool, **options: Any) -> None:
        super().__init__(str(path), live=live, **options)
        self.written = self._path = path
        self.waits = live
        self._older: set[str] = set()

    def _destination(self, address: str, live: bool) -> Destination:
        return of_playlist(Path(address), self._av, live=live)

    def __enter__(self) -> PlaylistSink:
        if self._path.is_dir():
            raise UserError(f"{self._path}: is a folder; name a file in it, as {self._path / 'live.m3u8'}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._path.parent):
                self._older = self._segments()
            # a new run uses new names, so that players of the old run continue
            newest = max((int(name[:-3].rpartition("-")[2]) for name in self._older), default=0)
            self._to = replace(
                self._to, options={**self._to.options, "start_number": str(max(newest + 1, int(time.time())))}
            )
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from error
        return self

    def __exit__(self, *failed: Any) -> None:
        super().__exit__(*failed)
        if self._sent and self._path.is_file():
            for name in self._older - self._segments():
                (self._path.parent / name).unlink(missing_ok=True)

    def _segments(self) -> set[str]:
        """Names of our segments in the playlist; empty if there is no playlist."""
        if not self._path.is_file():
            return set()
        lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        return {line for line in lines if re.fullmatch(rf"{re.escape(segment_stem(self._path))}-\d+\.ts", line)}
