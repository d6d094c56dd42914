"""What a source is called, and what FFmpeg is given to open: addresses lose their passwords before anyone sees them."""

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
#: What an address may open in turn, as a playlist or a description of a session does: the network, never a file.
_NETWORK = (
    "crypto,data,dtls,ffrtmpcrypt,ffrtmphttp,http,httpproxy,https,mmsh,mmst,rist,rtmp,rtmpe,rtmps,rtmpt,rtmpte,rtmpts,"
    "rtp,srt,srtp,tcp,tls,udp,udplite"
)


@dataclass(frozen=True)
class Address:
    """Where FFmpeg finds a video.

    Attributes:
        url: as FFmpeg takes it; holds the password, never shown.
        name: what people are told.
        stem: for names of frames and files.
        protocols: what it may open.
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
    """A local file, whatever its name looks like."""
    return Address(url=f"file:{path.absolute()}", name=str(path), stem=shortened(path.stem, STEM), protocols="file")


def of_url(text: str) -> Address:
    """An address on the network. Raises UserError for a scheme that is not known and for what is no address."""
    scheme = text.partition("://")[0].lower()
    name = _without_secrets(text)
    if scheme not in SCHEMES:
        raise UserError(
            f"{name}: {scheme}:// cannot be opened; {closest(scheme, SCHEMES)}; a file is named by its path"
        )
    try:
        parts = urlsplit(text)
        sound = bool(parts.netloc) and parts.port != 0  # reading the port raises ValueError for what is none
    except ValueError:  # its text may hold a part of the password
        sound = False
    if not sound:
        raise UserError(
            f"{name}: not an address; write {scheme}://HOST:PORT/PATH; in a password, / ? # @ are %2F %3F %23 %40"
        )
    words = re.findall(r"[A-Za-z0-9]+", f"{parts.hostname or ''} {parts.path.removesuffix('.m3u8')}")
    return Address(url=text, name=name, stem="-".join(words)[-80:] or scheme, protocols=_NETWORK)


def redacted(text: str) -> str:
    """A text with addresses in it, without their users, passwords and queries, which may hold either."""
    text = re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"']*", lambda match: _without_secrets(match[0]), text)
    return re.sub(r"(?i)\b([a-z-]*(?:pw|pass|password|token|secret))\s*=\s*(?:\"[^\"]*\"|'[^']*'|\S+)", r"\1=...", text)


def _without_secrets(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if "@" in rest:  # the last one that a host can follow; passwords hold slashes and more where they should not
        rest = re.sub(r"^.*@(?=[^@]*$)", "", rest, flags=re.DOTALL)
    return f"{scheme}://" + re.sub(r"[?#].*", "?...", rest, flags=re.DOTALL)
