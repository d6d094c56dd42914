"""Addresses and files for FFmpeg, and their names for messages, without passwords."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import UserError, closest
from pipeline.video.names import STEM, shortened

SCHEMES = (
    *("rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "http", "https", "udp", "rtp", "tcp", "tls", "srt", "rist"),
    *("mms", "mmsh", "mmst"),
)
#: Protocols that a playlist or session description at an address may use: the network, never files.
_NETWORK = (
    "crypto,data,dtls,ffrtmpcrypt,ffrtmphttp,http,httpproxy,https,mmsh,mmst,rist,rtmp,rtmpe,rtmps,rtmpt,rtmpte,rtmpts,"
    "rtp,srt,srtp,tcp,tls,udp,udplite"
)


@dataclass(frozen=True)
class Address:
    """The address or file of a video.

    Attributes:
        url: for FFmpeg. It may have a password and is never shown.
        name: for messages, without the password.
        stem: for names of frames and files.
        protocols: that FFmpeg may use for it, joined by commas.
    """

    url: str
    name: str
    stem: str
    protocols: str

    @property
    def path(self) -> Path | None:
        """The local file; None for anything else."""
        return Path(self.url.removeprefix("file:")) if self.protocols == "file" else None

    def __repr__(self) -> str:
        return f"Address({self.name!r})"


def of_file(path: Path) -> Address:
    """The address of a local file, also if its name looks like an address of the network."""
    return Address(url=f"file:{path.absolute()}", name=str(path), stem=shortened(path.stem, STEM), protocols="file")


def of_url(text: str) -> Address:
    """An address of the network. Raises UserError if the scheme is unknown or the text is not an address."""
    scheme = text.partition("://")[0].lower()
    name = _without_secrets(text)
    if scheme not in SCHEMES:
        raise UserError(
            f"{name}: {scheme}:// cannot be opened; {closest(scheme, SCHEMES)}; a file is named by its path"
        )
    try:
        parts = urlsplit(text)
        valid = bool(parts.netloc) and parts.port != 0  # an invalid port raises ValueError
    except ValueError:  # the text of the error may have a part of the password
        valid = False
    if not valid:
        raise UserError(
            f"{name}: not an address; write {scheme}://HOST:PORT/PATH; in a password, / ? # @ are %2F %3F %23 %40"
        )
    words = re.findall(r"[A-Za-z0-9]+", f"{parts.hostname or ''} {parts.path.removesuffix('.m3u8')}")
    return Address(url=text, name=name, stem="-".join(words)[-80:] or scheme, protocols=_NETWORK)


def redacted(text: str) -> str:
    """A text in which addresses have no users, passwords and queries."""
    text = re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"']*", lambda match: _without_secrets(match[0]), text)
    return re.sub(r"(?i)\b([a-z-]*(?:pw|pass|password|token|secret))\s*=\s*(?:\"[^\"]*\"|'[^']*'|\S+)", r"\1=...", text)


def _without_secrets(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if "@" in rest:  # up to the last @: passwords may have slashes and @ that should be escaped
        rest = re.sub(r"^.*@(?=[^@]*$)", "", rest, flags=re.DOTALL)
    return f"{scheme}://" + re.sub(r"[?#].*", "?...", rest, flags=re.DOTALL)
