"""Video from the network, read with PyAV: a live stream, or a file on a server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from pipeline.errors import UserError
from pipeline.video.drawing.picture import Picture
from pipeline.video.sources._address import Address
from pipeline.video.sources._base import Source
from pipeline.video.sources._container import ReadError, open_container, read_error, set_threads
from pipeline.video.sources._decoded import Turned
from pipeline.video.sources._facts import Remarks, StreamOptions, warn_of_streams
from pipeline.video.sources._interlaced import Progressive
from pipeline.video.sources._live import LiveSource, Patience
from pipeline.video.sources._timing import rate_of
from pipeline.video.sources.video_file import VideoFile

#: RTSP uses TCP, because lost packets of UDP damage pictures. Frames that arrive while FFmpeg probes the stream are
#: decoded and skipped. FFmpeg's nobuffer would drop them, and the first frame would come at the next key frame.
_LIVE = {
    "analyzeduration": "100000",  # microseconds; the default is 5 s for a stream without a frame rate
    "rtsp_transport": "tcp",
    "allowed_media_types": "video",
}
#: Options for a file: a lost connection is opened again at the same place, up to a delay of ten seconds.
_FILE = {"reconnect": "1", "reconnect_on_network_error": "1", "reconnect_delay_max": "10"}
#: Formats of playlists. The size of a playlist does not show whether it is live.
_PLAYLISTS = ("hls", "dash")
#: If the clock of a playlist jumps by more seconds, its frames are not delayed.
_JUMP_S = 2.0


def open_stream(
    address: Address,
    av: Any,
    *,
    patience: Patience,
    fps: float | None = None,
    reading: StreamOptions = StreamOptions(),  # noqa: B008 - cannot be changed
) -> Source:
    """A file on a server if it has a length, otherwise a live source.

    Args:
        fps: of a file, see :class:`VideoFile`.

    Raises:
        UserError: it cannot be opened, or no frame can be decoded.
    """

    def connect() -> tuple[Any, Any]:
        return open_container(av, address, timeouts=patience.timeouts, options=_LIVE, number=reading.number)

    opened = []
    remarks = Remarks(address.name)
    if address.url.lower().startswith(("http://", "https://")):
        try:
            opened.append(connect())
        except ReadError as error:
            raise UserError(f"{address.name}: cannot be opened ({error.reason}){error.ending()}") from None
        if _ends(opened[0][0]):
            opened[0][0].close()
            return VideoFile(address, av, fps=fps, timeouts=patience.timeouts, options=_FILE, reading=reading)
    return LiveSource(
        # some cameras have one viewer at a time, so the container that is open already is the first connection
        lambda: _AvConnection(
            *(opened.pop() if opened else connect()), av=av, patience=patience, reading=reading, remarks=remarks
        ),
        name=address.name,
        stem=address.stem,
        patience=patience,
    )


def _ends(container: Any) -> bool:
    """Whether it is a file. Cameras that send JPEGs give lengths that are wrong."""
    if _is_playlist(container):
        return container.duration is not None
    return container.format.name != "mpjpeg" and bool(container.size > 0)


def _is_playlist(container: Any) -> bool:
    return any(kind in container.format.name for kind in _PLAYLISTS)


class _Pace:
    """Delays the frames of a playlist until their time, because they arrive in segments of many seconds."""

    def __init__(self) -> None:
        self._ahead: float | None = None

    def hold(self, timestamp: float | None) -> None:
        """Wait until the time of a frame, relative to the first one. A late frame or a jump starts the clock again."""
        if timestamp is None:
            return
        ahead = timestamp - time.perf_counter()
        if self._ahead is None or abs(ahead - self._ahead) > _JUMP_S:
            self._ahead = ahead
        time.sleep(max(ahead - self._ahead, 0.0))


class _AvConnection:
    """One connection of PyAV."""

    def __init__(
        self, container: Any, stream: Any, *, av: Any, patience: Patience, reading: StreamOptions, remarks: Remarks
    ) -> None:
        self._av = av
        self._patience = patience
        self._container = container
        self._pace = _Pace() if _is_playlist(container) else None
        self.fps = rate_of(container, stream)
        set_threads(stream, live=True)
        self.stream: int | None = int(stream.index)
        warn_of_streams(container, stream, remarks)
        if container.streams.audio:
            remarks.warn("its sound is not carried over: sound can be copied from files only")
        self._turned = Turned(stream, remarks, tone_map=reading.tone_map)
        self._progressive = Progressive(av, wanted=reading.deinterlace, remarks=remarks)
        self._pictures = self._taken(stream)

    def _taken(self, stream: Any) -> Iterator[Picture]:
        for frame in self._progressive.of(self._decode(stream)):
            yield self._turned.picture_of(frame)

    def _decode(self, stream: Any) -> Iterator[Any]:
        for packet in self._container.demux(stream):
            try:
                frames = packet.decode()
            except self._av.error.EOFError:
                return
            except self._av.error.FFmpegError:
                continue  # until the next key frame
            for frame in frames:
                if self._pace:
                    self._pace.hold(frame.time)
                yield frame

    def read(self) -> Picture:
        try:
            picture = next(self._pictures, None)
        except self._av.error.FFmpegError as error:
            raise read_error(self._av, error, self._patience.timeouts.read) from None
        if picture is None:
            raise ReadError("the stream ended")
        return picture

    def close(self) -> None:
        self._pictures.close()  # type: ignore[attr-defined]
        self._container.close()
