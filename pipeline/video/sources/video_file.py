"""A video with an end, read with PyAV: every frame, with its time in the file."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NoReturn

from pipeline.errors import UserError
from pipeline.video.sound import Sound
from pipeline.video.sources._address import Address
from pipeline.video.sources._base import Frame, Source
from pipeline.video.sources._container import ReadError, Timeouts, open_container, set_threads
from pipeline.video.sources._decoder import Decoder
from pipeline.video.sources._facts import Remarks, StreamOptions, warn_of_streams
from pipeline.video.sources._numbers import packets_before
from pipeline.video.sources._timing import expected_frames, timing_of
from pipeline.video.sources._whole import missing_bytes

log = logging.getLogger(__name__)

_LATE_S = 0.1  # a first picture that is later than this after the start of the file has a warning


class VideoFile(Source):
    """A local file, or one on a server.

    Timestamps count from the start of the file, which may be before its first picture. They always rise, see
    :class:`pipeline.video.sources._timing.Clock`. If the file has none they follow from the frame rate. The name of a
    frame is its number in the file, also if reading begins later.

    Args:
        fps: frame rate that replaces the rate and the timestamps of the file.
        timeouts: for a file on a server; None: a local file.
        options: options of FFmpeg for opening it.
        reading: which stream is read, and how HDR and interlaced frames are treated.

    Raises:
        UserError: it cannot be opened, has no pictures, or no picture can be decoded.
    """

    def __init__(
        self,
        address: Address,
        av: Any,
        *,
        fps: float | None = None,
        timeouts: Timeouts | None = None,
        options: dict[str, str] | None = None,
        reading: StreamOptions = StreamOptions(),  # noqa: B008 - cannot be changed
    ) -> None:
        self.name = address.name
        self.stem = address.stem
        self._address = address
        self._av = av
        self._timeouts = timeouts
        self.waits = timeouts is not None
        self._options = options
        self._reading = reading
        self._remarks = Remarks(self.name)
        container, stream = self._open()
        with container:
            self._timing = timing_of(container, stream, fps=fps)
            self.fps = self._timing.fps
            # of a GIF this is the number of frames that were found, not of those that should exist
            self._packets = stream.frames if stream.frames and container.format.name != "gif" else None
            # only the first number includes frames that an edit list leaves out or an AVI dropped
            known = [
                number for number in (self._packets, expected_frames(container, stream, path=address.path)) if number
            ]
            self.count = min(known, default=None)
            self._first = 0
            self._leapt: float | None = None
            self.stream = stream.index
            warn_of_streams(container, stream, self._remarks)
            decoder = self._decoder(container, stream)
            first = next(decoder.pictures(), None)
            if first is None:
                self._give_up(decoder)
            self.aspect = first[1].aspect
            self._first = decoder.number
            self._timing = self._timing.from_first(decoder.now, container, stream)
            if self._timing.source == "pts" and stream.codec_context.has_b_frames and decoder.falls():
                self._timing, self._first = replace(self._timing, source="dts", origin=None), 0
            self.sound = Sound.of(
                *(container, stream, av),
                name=self.name,
                origin=None if self._timing.source == "none" else self._timing.origin,
                reopen=lambda: self._open()[0],
                leapt=lambda: self._leapt,
            )
        if self._timing.assumed:
            log.warning("%s: has no frame rate; %g is assumed; --fps sets it", self.name, self.fps or 0)

    @property
    def _advice(self) -> str:
        return (
            convert(self.name)
            if self._timeouts is None
            else "check that it plays; a server that cannot seek needs a file with its index in front: download it"
        )

    def _open(self) -> tuple[Any, Any]:
        try:
            return open_container(
                self._av,
                self._address,
                timeouts=self._timeouts,
                options=self._options,
                number=self._reading.number,
            )
        except ReadError as error:
            what = "not a readable video" if self._timeouts is None else "cannot be read"
            raise UserError(f"{self.name}: {what} ({error.reason}); {error.advice or self._advice}") from None

    def frames(self, *, start: float = 0.0) -> Iterator[Frame]:
        self.damage = ""
        given = 0
        with ExitStack() as stack:
            decoder = self._begin(stack, start)
            try:
                for time, picture in decoder.pictures(start=start):
                    if not given and start <= 0 and time >= _LATE_S:
                        self._warn_late(time)
                    given += 1
                    yield Frame(f"{self.stem}-{decoder.number - self._first:06d}", time, picture)
            finally:
                self._leapt = decoder.leapt
                self._warn_of_damage(decoder, given)
        if not decoder.decoded or (not given and start <= 0):
            self._give_up(decoder)
        if not given:
            why = f" (damaged: {self.damage})" if self.damage else ""
            raise UserError(
                f"{self.name}: nothing from {start:g} s on, it ends at {decoder.now:.2f} s{why}; start earlier"
            )
        if decoder.broken and self._timeouts is not None:  # the rest of the file exists on the server
            raise UserError(f"{self.name}: broke off after {given} frames ({decoder.broken.reason}); run it again")

    def _decoder(self, container: Any, stream: Any) -> Decoder:
        return Decoder(
            *(self._av, container, stream, self._timeouts),
            name=self.name,
            timing=self._timing,
            reading=self._reading,
            remarks=self._remarks,
        )

    def _begin(self, stack: ExitStack, start: float) -> Decoder:
        """A decoder at a key frame before ``start``, or at the first frame if the key frame is not found for sure."""

        def opened() -> tuple[Any, Any]:
            container, stream = self._open()
            stack.enter_context(container)
            return container, stream

        def decoder() -> Decoder:
            container, stream = opened()
            set_threads(stream, live=False, alone=self.alone)
            return self._decoder(container, stream)

        there = decoder()
        if start <= 0 or not there.numbers.ranked:
            return there
        key = there.seek(start)
        if key is None:
            return decoder()
        container, stream = opened()
        before = packets_before(
            key, container=container, stream=stream, numbers=self._decoder(container, stream).numbers
        )
        if before is None:
            return decoder()
        there.numbers.begin(before)
        there.packets += before
        return there

    def _give_up(self, decoder: Decoder) -> NoReturn:
        reason = f" ({decoder.broken.reason})" if decoder.broken else ""
        raise UserError(f"{self.name}: not one frame of this video can be decoded{reason}; {self._advice}")

    def _warn_late(self, time: float) -> None:
        log.warning(
            "%s: its first picture comes %.2f s after the start of the file: times are those of the file, and a video "
            "that is made of it begins with that picture",
            *(self.name, time),
        )

    def _warn_of_damage(self, decoder: Decoder, given: int) -> None:
        """Set :attr:`damage`, and warn of it in one line. A connection that a server closed is an error instead."""
        if decoder.broken and self._timeouts is not None:
            return
        problems = [f"{decoder.damaged} packets could not be decoded"] if decoder.damaged else []
        problems += [f"{decoder.corrupt} frames are decoded in part"] if decoder.corrupt else []
        problems += [f"reading stopped early ({decoder.broken.reason})"] if decoder.broken else []
        if decoder.ended and (not self._packets or decoder.packets < self._packets):
            missing = missing_bytes(self.paths[0]) if self.paths else 0
            if missing or decoder.torn:
                known = f", its header says {self._packets} frames" if self._packets else ""
                lost = f": {missing} bytes or more are missing" if missing else ""
                problems.append(f"it was cut off{lost}{known}")
        if problems:
            self.damage = f"{given} frames were read; {'; '.join(problems)}"
            if given:  # else it is an error
                log.warning("%s: damaged: %s", self.name, self.damage)


def convert(name: str) -> str:
    """Advice for a video that cannot be read."""
    return f"convert it with: ffmpeg -i {shlex.quote(name)} -c:v libx264 out.mp4"
