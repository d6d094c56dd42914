"""Where a video is sent, or written as a playlist: what FFmpeg is given, and what people are told."""

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
_WITH_PORT = ("udp", "srt")  # the others have a port that all servers listen on
_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "rtsp": {"rtsp_transport": "tcp"},  # lost packets of UDP are holes in pictures
    "flv": {"flvflags": "no_duration_filesize", "flush_packets": "1"},
    "mpegts": {"flush_packets": "1"},
}
_DATAGRAM = 1316  # bytes: seven packets of MPEG-TS, as much as fits into a frame of Ethernet
_SEGMENT_S = 2
_WINDOW = 15  # segments of something live that the playlist lists
_LEAVE = 5  # segments that stay after the playlist has dropped them, for players that still read them


@dataclass(frozen=True)
class Destination:
    """Where a video goes.

    Attributes:
        url: as FFmpeg takes it, that of a playlist from its folder; holds the password, never shown.
        name: what people are told.
        format: FFmpeg's muxer.
        options: of the muxer.
        key_s: seconds between key frames.
        path: of a playlist; None for an address.
    """

    url: str = field(repr=False)
    name: str
    format: str
    options: Mapping[str, str]
    key_s: float
    path: Path | None = None


def is_address(text: str) -> bool:
    """Whether it is meant as an address and not as a path."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", text)
    return scheme is not None and ("://" in text or scheme[1].lower() in _MUXERS)


def of_address(text: str, av: Any) -> Destination:
    """Where something live is sent.

    Raises:
        UserError: a scheme that nothing can be sent to, no address, no port where there is no usual one, or a protocol
            that this FFmpeg lacks.
    """
    scheme = text.partition(":")[0].lower()
    name = redacted(text)
    allowed = f"allowed: {', '.join(f'{known}://' for known in _MUXERS)}; or a path: .mp4, .m3u8, or a folder"
    if scheme not in _MUXERS:
        near = closest(scheme, _MUXERS)
        raise UserError(f"--out {name}: nothing can be sent to {scheme}://; {near if near[0] == 'd' else allowed}")
    try:
        parts = urlsplit(text)
        port = parts.port  # raises ValueError for what is none
        sound = "://" in text and bool(parts.hostname) and port != 0
    except ValueError:  # its text may hold a part of the password
        sound, port = False, None
    if not sound:
        told = name if "://" in text else f"{scheme}:..."
        raise UserError(
            f"--out {told}: not an address; write {scheme}://HOST:PORT/PATH; in a password, / ? # @ are %2F %3F %23 %40"
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
    """Raise UserError for what :func:`of_address` refuses, before anything is opened; None is no address."""
    av = load_av()
    if text is not None and av is not None:  # without PyAV the sink says what is missing
        of_address(text, av)


def of_playlist(path: Path, av: Any, *, live: bool) -> Destination:
    """An HLS playlist and its segments beside it, ``NAME-NUMBER.ts``.

    Args:
        live: only the last 30 seconds are listed, and older segments are removed; else all stay.

    Raises:
        UserError: this FFmpeg lacks the muxer.
    """
    if not _has_muxer("hls", av):
        raise UserError(f"--out {path}: the FFmpeg of this PyAV has no muxer 'hls'; use the wheel: pip install av")
    kept = {"hls_list_size": str(_WINDOW), "hls_delete_threshold": str(_LEAVE)} if live else {}
    options = {
        "hls_time": str(_SEGMENT_S),
        "hls_segment_filename": f"./{segment_stem(path)}-%d.ts",
        # a file is there when it is whole
        "hls_flags": "temp_file+independent_segments" + ("+delete_segments" if live else ""),
        **(kept or {"hls_list_size": "0", "hls_playlist_type": "event"}),
    }
    return Destination(f"./{path.name}", str(path), "hls", options, key_s=_SEGMENT_S, path=path)


def segment_stem(path: Path) -> str:
    """What the names of a playlist's segments begin with: nothing that FFmpeg or an address would take otherwise."""
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
