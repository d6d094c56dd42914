"""Opening of what holds a video with PyAV: one message for whatever goes wrong, and never an address in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.video.cores import codec_threads
from pipeline.video.sources._address import Address


class ReadError(Exception):
    """FFmpeg cannot open or read it.

    Attributes:
        reason: in a few words.
        advice: what to do next; empty when there is nothing better to say than the usual.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice

    def told(self) -> str:
        """The advice as the end of a message; empty where there is none."""
        return f"; {self.advice}" if self.advice else ""


@dataclass(frozen=True)
class Timeouts:
    """Seconds that opening and that one reading may take."""

    open: float
    read: float


def open_container(
    av: Any,
    address: Address,
    *,
    timeouts: Timeouts | None = None,
    options: Mapping[str, str] | None = None,
    source: Any = None,
) -> tuple[Any, Any]:
    """The container and its video stream; of ``source``, which has ``read(size)``, where it is given. Raises
    ReadError."""
    container = None
    try:
        container = av.open(
            source or address.url,
            options={"protocol_whitelist": address.protocols, **(options or {})},
            timeout=(timeouts.open, timeouts.read) if timeouts else None,
            metadata_errors="replace",  # titles in another encoding are no fault of the pictures
        )
        stream = _video_stream(container)
        if stream is None:
            raise ReadError("holds no video stream", "give something that has pictures")
        if stream.codec_context is None:
            raise ReadError("this PyAV has no decoder for it")
    except BaseException as error:
        if container is not None:
            container.close()
        if isinstance(error, (av.error.FFmpegError, OSError)):
            raise read_error(av, error, timeouts.open if timeouts else None) from None  # its text holds the address
        raise
    return container, stream


def _video_stream(container: Any) -> Any:
    """The stream that players choose; cover art of a song is none."""
    return container.streams.best("video")


def set_threads(stream: Any, *, live: bool, alone: bool = False) -> None:
    """Give a decoder its share of the cores, see :func:`pipeline.video.cores.codec_threads`.

    One thread decodes H.264 of 1280x720 in 2.7 ms and of 1920x1080 in 5.1 ms (2 and 4 Mbit/s, one core of a Xeon),
    ahead of most engines. Threads by frame hold back a frame each, which live video must not: it has threads by slice,
    which help where a picture has several and cost nothing elsewhere.
    """
    stream.codec_context.thread_count = codec_threads(alone=alone)
    stream.thread_type = "SLICE" if live else "FRAME"


def read_error(av: Any, error: BaseException, seconds: float | None) -> ReadError:
    """What an error of FFmpeg means to a user; ``seconds`` is the timeout, None for a local file."""
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
