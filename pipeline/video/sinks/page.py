"""A live web page, for devices without a screen: the overlay, the classes, and the speed."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.errors import UserError
from pipeline.video.sinks._base import Result, Stop
from pipeline.video.sinks._figures import Figures, PageSettings
from pipeline.video.sinks._pictures import Pictures
from pipeline.video.sinks._web import Places, Request, Route, WebServer

LOOPBACK = "127.0.0.1"
VIEWERS = 16  # viewers that get pictures; the same number get figures
TICK_S = 0.25  # between figures
_GONE_S = 1.0  # between checks whether a viewer is still there, if there is nothing to send
LAST_S = 0.3  # for viewers to get the last figures
_ON_THE_WAY = 1 << 16  # most bytes that wait in the system for a slow viewer: less than a second of a slow network
_BOUNDARY = b"--frame\r\n"
_HERE = Path(__file__).parent
_FILES = {
    "/": ("text/html; charset=utf-8", "page.html"),
    "/page.css": ("text/css; charset=utf-8", "page.css"),
    "/page.js": ("text/javascript; charset=utf-8", "live.js", "page.js"),
}
_log = logging.getLogger(__name__)


def parse_address(text: str) -> tuple[str, int]:
    """``[HOST:]PORT``; the default host is the loopback address, so that other machines see nothing by default.

    Raises:
        UserError: anything else.

    Example:
        >>> parse_address("8000"), parse_address("0.0.0.0:8000"), parse_address("[::1]:0")
        (('127.0.0.1', 8000), ('0.0.0.0', 8000), ('::1', 0))
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon, host = ":", ""  # an IPv6 address without brackets
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) < 2**16) or (colon and not host):
        raise UserError(f"--serve: got {text!r}; allowed: PORT or HOST:PORT, as 8000, 0.0.0.0:8000 or [::1]:8000")
    return host or LOOPBACK, int(port)


def checked_hosts(names: Sequence[str]) -> list[str]:
    """Names or addresses of hosts, without ports. Raises UserError for any other text."""
    for name in names:
        if not (re.fullmatch(r"[A-Za-z0-9._-]{1,253}", name) or _is_address(name)):
            raise UserError(f"--allow-host: got {name!r}; allowed: a name without a port, such as robot.lan")
    return list(names)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def checked_origins(origins: Sequence[str]) -> list[str]:
    """Origins as browsers send them. Raises UserError for any other text, because it becomes part of a header."""
    for origin in origins:
        if not re.fullmatch(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(:\d{1,5})?", origin):
            raise UserError(
                f"--embed: got {origin!r}; allowed: SCHEME://HOST or SCHEME://HOST:PORT, such as https://dashboard.lan"
            )
    return list(origins)


def open_server(
    host: str, port: int, routes: Mapping[str, Route], *, hosts: Sequence[str], embed: Sequence[str]
) -> WebServer:
    """A server that listens and does not answer yet. Logs its address, and a warning if other machines can see the
    page.

    Raises:
        UserError: an invalid host or origin; the address cannot be served.
    """
    server = WebServer(host, port, routes, hosts=checked_hosts(hosts), embed=checked_origins(embed))
    if not server.is_local:
        _log.warning("everybody on the network can watch the page; to keep it to this machine: --serve PORT")
    _log.info("live page: %s", server.address)
    return server


def file_routes(files: Mapping[str, tuple[str, ...]]) -> dict[str, Route]:
    """Routes that answer with files of this folder.

    Args:
        files: path -> media type, and the names of the files that are joined into one answer.
    """
    return {
        path: partial(Request.whole, kind=kind, body=b"".join((_HERE / name).read_bytes() for name in names))
        for path, (kind, *names) in files.items()
    }


class SourcePage:
    """The page of one source, for a server that another object owns: a sink, and the :meth:`routes` of the page.

    The pipeline does not wait for it: it keeps a reference to the newest result, and encodes pictures in its own
    thread, only while somebody watches.
    """

    wants_picture = waits = reads_confidence = True
    patient = False
    written: Path | None = None

    def __init__(self, page: PageSettings) -> None:
        self._figures = Figures(page)
        self._pictures = Pictures(side=page.side, rate=page.rate)
        self._places = {kind: Places(VIEWERS) for kind in ("pictures", "figures")}
        self._over, self._closed = threading.Event(), threading.Event()
        self._visits: set[str] = set()  # pages that get pictures now
        self.address = ""

    def routes(self) -> dict[str, Route]:
        """Path -> function that answers. Paths begin with ``/``; the server may put a prefix before them."""
        live = {"/state": self._send_state, "/events": self._send_figures, "/stream": self._send_pictures}
        return {**file_routes(_FILES), **live}

    def __enter__(self) -> SourcePage:
        self._pictures.start()
        return self

    def write(self, result: Result) -> None:
        assert result.picture is not None, "an overlay sink needs a loop that draws"
        self._figures.note(result)
        self._pictures.offer(result.picture)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = kind is not None and not issubclass(kind, (Stop, KeyboardInterrupt))
        self._figures.state = "failed" if failed else "ended"
        self._pictures.finish()
        self._over.set()
        if self._pictures.watchers:
            time.sleep(LAST_S)

    def close(self) -> None:
        """End the open answers."""
        self._closed.set()

    def _about(self) -> dict[str, Any]:
        return self._figures.about()

    @contextmanager
    def _visiting(self, visit: str) -> Iterator[None]:
        self._visits.add(visit)
        try:
            yield
        finally:
            self._visits.discard(visit)

    def _send_state(self, request: Request) -> None:
        request.whole("application/json", as_json({**self._about(), **self._figures.now()}) + b"\n")

    def _send_figures(self, request: Request) -> None:
        """Server-sent events: ``about`` once, then ``figures`` four times per second. Their key ``pictures`` is whether
        the page with the number in the query gets pictures now."""
        visit = request.path.partition("?")[2]
        with self._places["figures"].one(request) as free:
            if not free:
                return
            request.begin("text/event-stream")
            if request.only_head:
                return
            request.wfile.write(b"event: about\ndata: " + as_json(self._about()) + b"\n\n")
            while not (self._closed.is_set() or request.gone()):
                is_last = self._over.is_set()
                figures = {**self._figures.now(), "pictures": visit in self._visits}
                request.wfile.write(b"event: figures\ndata: " + as_json(figures) + b"\n\n")
                (self._closed if is_last else self._over).wait(TICK_S)

    def _send_pictures(self, request: Request) -> None:
        """Motion JPEG. Each picture is the newest one when the last was sent, so slow viewers miss some."""
        with self._places["pictures"].one(request) as free:
            if not free:
                return
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ON_THE_WAY)
            request.begin("multipart/x-mixed-replace; boundary=frame")
            if request.only_head:
                return
            request.wfile.write(_BOUNDARY)
            with self._visiting(request.path.partition("?")[2]), self._pictures.watching() as first:
                number = first
                while not (self._closed.is_set() or request.gone()):
                    newest = self._pictures.after(number, seconds=_GONE_S)
                    if newest is None:
                        continue
                    number, jpeg = newest
                    head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                    # with the next boundary, because browsers show a picture only when it is complete
                    part = head + jpeg + b"\r\n" + _BOUNDARY
                    # Chromium shows a picture when the next one arrives, so the last one is sent twice
                    request.wfile.write(part * (2 if self._over.is_set() else 1))


class PageSink(SourcePage):
    """Serves the page of one source.

    After the run the page shows that it has ended, until :meth:`close` or the end of the process.

    Args:
        page: its settings.
        host, port: address to listen on, see :func:`parse_address`; port 0 takes a free one.
        hosts, embed: see :class:`pipeline.video.sinks._web.WebServer`.

    Raises:
        UserError: an invalid host or origin; on entering, if the address cannot be served.
    """

    def __init__(
        self, page: PageSettings, *, host: str, port: int, hosts: Sequence[str] = (), embed: Sequence[str] = ()
    ) -> None:
        super().__init__(page)
        self._host, self._port = host, port
        self._hosts, self._embed = checked_hosts(hosts), checked_origins(embed)
        self._server: WebServer | None = None

    def __enter__(self) -> PageSink:
        self._server = open_server(self._host, self._port, self.routes(), hosts=self._hosts, embed=self._embed)
        self.address = self._server.address
        super().__enter__()
        self._server.start()
        return self

    def close(self) -> None:
        """Stop serving the page."""
        super().close()
        if self._server is not None:
            self._server.close()


def as_json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()
