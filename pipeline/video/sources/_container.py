"""Opens videos with PyAV. Every error becomes one message without passwords."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.video.sources._address import Address
from pipeline.video.sources._facts import is_cover, listed
from pipeline.video.workers.cores import codec_threads


class ReadError(Exception):
    """FFmpeg cannot open or read a video.

    Attributes:
        reason: in a few words.
        advice: what to do next; empty if there is no special advice.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice

    def ending(self) -> str:
        """The advice as the end of a message; empty if there is none."""
        return f"; {self.advice}" if self.advice else ""


@dataclass(frozen=True)
class Timeouts:
    """Longest times in seconds to open a video, and to read from it once."""

    open: float
    read: float


def open_container(
    av: Any,
    address: Address,
    *,
    timeouts: Timeouts | None = None,
    options: Mapping[str, str] | None = None,
    number: int | None = None,
    source: Any = None,
) -> tuple[Any, Any]:
    """The container and its video stream: the one with this number, or the one that players choose.

    Args:
        source: an object with ``read(size)``, which is read instead of the address.

    Raises:
        ReadError: it cannot be opened or read.
        UserError: there is no video stream of this number.
    """
    container = None
    try:
        container = av.open(
            source or address.url,
            options={"protocol_whitelist": address.protocols, **(options or {})},
            timeout=(timeouts.open, timeouts.read) if timeouts else None,
            metadata_errors="replace",  # titles in another encoding do not matter
        )
        stream = _best(container) if number is None else _numbered(container, number, address.name)
        if stream is None:
            raise ReadError("holds no video stream", "give something that has pictures")
        if stream.codec_context is None:
            raise ReadError("this PyAV has no decoder for it")
    except BaseException as error:
        if container is not None:
            container.close()
        if isinstance(error, (av.error.FFmpegError, OSError)):
            raise read_error(av, error, timeouts.open if timeouts else None) from None  # its text has the address
        raise
    return container, stream


def _best(container: Any) -> Any:
    """The stream that players choose; None if there is none. Cover art of a song is not a video."""
    stream = container.streams.best("video")
    if stream is not None and is_cover(stream):
        raise ReadError("holds no video stream, only cover art", f"--stream {stream.index} takes that picture")
    return stream


def _numbered(container: Any, number: int, name: str) -> Any:
    chosen = next((stream for stream in container.streams.video if stream.index == number), None)
    if chosen is None:
        raise UserError(
            f"{name}: --stream {number}: no video stream has this number; allowed: "
            f"{listed(container.streams.video) or 'none, it holds no video stream'}"
        )
    return chosen


def set_threads(stream: Any, *, live: bool, alone: bool = False) -> None:
    """Give a decoder its share of the cores, see :func:`pipeline.video.workers.cores.codec_threads`.

    One thread decodes H.264 of 1280x720 in 2.7 ms and of 1920x1080 in 5.1 ms (2 and 4 Mbit/s, one core of a Xeon),
    ahead of most engines. Each frame thread delays the video by one frame. Live video must not be delayed, so it has
    slice threads, which help if a picture has several slices.
    """
    stream.codec_context.thread_count = codec_threads(alone=alone)
    stream.thread_type = "SLICE" if live else "FRAME"


def read_error(av: Any, error: BaseException, seconds: float | None) -> ReadError:
    """An error of FFmpeg in a user's words; ``seconds`` is the timeout, None for a local file."""
    reason = getattr(error, "strerror", None) or type(error).__name__
    known, advice = av.error, "check the address, its port and the network, and that it is sending"
    if seconds is None:
        advice = "check its permissions" if isinstance(error, PermissionError) else ""
    elif isinstance(error, known.ExitError):
        reason = f"no answer within {seconds:g} s"
    elif isinstance(error, (known.HTTPUnauthorizedError, known.HTTPForbiddenError)):
        advice = "check user and password, as in SCHEME://USER:PASSWORD@HOST/PATH"
    elif isinstance(error, known.HTTPNotFoundError):
        advice = "check the path of the address"
    elif isinstance(error, known.ProtocolNotFoundError):
        reason, advice = "the FFmpeg of this PyAV does not know the protocol", "read it with GStreamer, or another PyAV"
    elif isinstance(error, known.InvalidDataError):
        advice = "check that the address is that of a video, and of a codec that FFmpeg knows"
    return ReadError(reason, advice)
