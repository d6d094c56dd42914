"""Destinations of a stream: addresses and playlists, with their options for FFmpeg and their names for messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import UserError, closest
from pipeline.video._av import load_av
from pipeline.video.sources._address import redacted

__all__ = ["Destination", "check_address", "is_address", "of_address", "of_playlist", "redacted"]

#: FFmpeg's muxer by scheme.
_MUXERS = {"rtsp": "rtsp", "rtsps": "rtsp", "rtmp": "flv", "rtmps": "flv", "udp": "mpegts", "srt": "mpegts"}
_WITH_PORT = ("udp", "srt")  # the others have a default port
_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "rtsp": {"rtsp_transport": "tcp"},  # lost packets of UDP damage pictures
    "flv": {"flvflags": "no_duration_filesize", "flush_packets": "1"},
    "mpegts": {"flush_packets": "1"},
}
_DATAGRAM = 1316  # bytes: seven packets of MPEG-TS, the most that fits into a frame of Ethernet
_SEGMENT_S = 2
_WINDOW = 15  # segments in the playlist of a live source
_LEAVE = 5  # older segments that are kept for players that still read them


@dataclass(frozen=True)
class Destination:
    """The destination of a video.

    Attributes:
        url: for FFmpeg; that of a playlist is relative to its folder. It may have a password and is never shown.
        name: for messages, without the password.
        format: FFmpeg's muxer.
        options: options of the muxer.
        key_s: seconds between key frames.
        path: path of a playlist; None for an address.
    """

    url: str = field(repr=False)
    name: str
    format: str
    options: Mapping[str, str]
    key_s: float
    path: Path | None = None


def is_address(text: str) -> bool:
    """Whether a text is an address and not a path."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", text)
    return scheme is not None and ("://" in text or scheme[1].lower() in _MUXERS)


def of_address(text: str, av: Any) -> Destination:
    """The destination of a stream.

    Raises:
        UserError: unknown scheme, invalid address, no port and no default port, or a scheme that FFmpeg lacks here.
    """
    scheme = text.partition(":")[0].lower()
    name = redacted(text)
    allowed = f"allowed: {', '.join(f'{known}://' for known in _MUXERS)}; or a path: .mp4, .m3u8, or a folder"
    if scheme not in _MUXERS:
        near = closest(scheme, _MUXERS)
        raise UserError(f"--out {name}: nothing can be sent to {scheme}://; {near if near[0] == 'd' else allowed}")
    try:
        parts = urlsplit(text)
        port = parts.port  # an invalid port raises ValueError
        valid = "://" in text and bool(parts.hostname) and port != 0
    except ValueError:  # the text of the error may have a part of the password
        valid, port = False, None
    if not valid:
        shown = name if "://" in text else f"{scheme}:..."
        raise UserError(
            f"--out {shown}: not an address; write {scheme}://HOST:PORT/PATH; in a password, / ? # @ are %2F %3F %23 "
            "%40"
        )
    if port is None and scheme in _WITH_PORT:
        raise UserError(f"--out {name}: the port is missing; write {scheme}://HOST:PORT")
    muxer = _MUXERS[scheme]
    if not _can_send(scheme, av):
        able = [f"{known}://" for known in _MUXERS if _can_send(known, av)]
        raise UserError(
            f"--out {name}: the FFmpeg of this PyAV cannot send to {scheme}://; allowed here: "
            f"{', '.join(able) or 'none'}; use one of them, or a PyAV that was built with {scheme}"
        )
    if scheme == "udp" and "pkt_size=" not in parts.query:
        text += f"{'&' if parts.query else '?'}pkt_size={_DATAGRAM}"
    return Destination(text, name, muxer, _OPTIONS[muxer], key_s=1.0)


def check_address(text: str | None) -> None:
    """Raise UserError for an address that :func:`of_address` refuses, before anything is opened; None is allowed."""
    av = load_av()
    if text is not None and av is not None:  # without PyAV the sink raises the error
        of_address(text, av)


def of_playlist(path: Path, av: Any, *, live: bool) -> Destination:
    """An HLS playlist and its segments beside it, ``NAME-NUMBER.ts``.

    Args:
        live: whether only the last 30 seconds are listed and older segments are removed.

    Raises:
        UserError: this FFmpeg lacks the muxer.
    """
    if not _has_muxer("hls", av):
        raise UserError(f"--out {path}: the FFmpeg of this PyAV has no muxer 'hls'; use the wheel: pip install av")
    kept = {"hls_list_size": str(_WINDOW), "hls_delete_threshold": str(_LEAVE)} if live else {}
    options = {
        "hls_time": str(_SEGMENT_S),
        "hls_segment_filename": f"./{segment_stem(path)}-%d.ts",
        # temp_file: a segment gets its name when it is complete
        "hls_flags": "temp_file+independent_segments" + ("+delete_segments" if live else ""),
        **(kept or {"hls_list_size": "0", "hls_playlist_type": "event"}),
    }
    return Destination(f"./{path.name}", str(path), "hls", options, key_s=_SEGMENT_S, path=path)


def segment_stem(path: Path) -> str:
    """First part of the names of a playlist's segments, without characters that FFmpeg or addresses treat specially."""
    return re.sub(r"[^\w.-]", "_", path.stem)


def _can_send(scheme: str, av: Any) -> bool:
    """Whether this FFmpeg has the muxer and the protocol of a scheme."""
    return _has_muxer(_MUXERS[scheme], av) and _has_protocol({"rtsp": "tcp", "rtsps": "tls"}.get(scheme, scheme), av)


def _has_muxer(muxer: str, av: Any) -> bool:
    try:
        return bool(av.format.ContainerFormat(muxer, "w").is_output)
    except ValueError:
        return False


def _has_protocol(protocol: str, av: Any) -> bool:
    """Ask FFmpeg for a protocol. No protocol is allowed, so nothing is opened."""
    try:
        av.open(f"{protocol}://127.0.0.1:1", format="mpegts", options={"protocol_whitelist": "none"}).close()
    except av.error.ProtocolNotFoundError:
        return False
    except (av.error.FFmpegError, OSError):
        return True  # the protocol exists and is not allowed
    return True
