"""A small web server for a few known paths, with narrow limits on what it reads and how long it waits."""

from __future__ import annotations

import io
import ipaddress
import logging
import os
import re
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from pipeline.errors import UserError

HEAD_BYTES = 8192  # of a request
READ_S = 5.0  # for the whole of it
SEND_S = 10.0  # for one piece of an answer; slower viewers are disconnected
CONNECTIONS = 64
_log = logging.getLogger(__name__)
_REPORTED = 20  # refused host names that are logged, each once; a limit, because clients choose them
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors ",
    "Referrer-Policy": "no-referrer",
    "X-Accel-Buffering": "no",  # otherwise nginx collects events and pictures up to 8 KB
    "X-Content-Type-Options": "nosniff",
}


_NO_MORE: Mapping[str, str] = {}


class Request(BaseHTTPRequestHandler):
    """One GET or HEAD of a known path; the connection ends with the answer."""

    server: WebServer
    protocol_version = default_request_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        try:
            head = self._read_head()
            if head is not None:
                self._answer(head)
        except OSError as error:  # gone, or too slow
            _log.debug("%s: %s", self.client_address, error)

    def _read_head(self) -> bytes | None:
        head = b""
        until = time.monotonic() + READ_S
        while b"\r\n\r\n" not in head:
            if len(head) >= HEAD_BYTES:
                self.request_version, self.requestline, self.command = "HTTP/1.1", "", "GET"
                self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return None
            self.connection.settimeout(max(0.001, until - time.monotonic()))
            part = self.connection.recv(HEAD_BYTES - len(head))
            if not part:
                return None
            head += part
        return head

    def _answer(self, head: bytes) -> None:
        self.connection.settimeout(SEND_S)
        self.rfile = io.BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        if not self.parse_request():
            return  # parse_request has sent an error
        route = self.server.routes.get(self.path.partition("?")[0])
        if not self.server.knows_itself_as(self.headers.get("Host", "")):
            self.server.report_refused(self.headers.get("Host", ""))
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.command not in ("GET", "HEAD"):
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
        elif route is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            route(self)

    def whole(self, kind: str, body: bytes, *, status: int = HTTPStatus.OK, more: Mapping[str, str] = _NO_MORE) -> None:
        """Answer with ``body`` of media type ``kind``, and ``more`` headers."""
        self.begin(kind, status=status, length=len(body), more=more)
        if not self.only_head:
            self.wfile.write(body)

    @property
    def only_head(self) -> bool:
        """Whether the answer ends with its headers."""
        return self.command == "HEAD"

    def begin(
        self, kind: str, *, status: int = HTTPStatus.OK, length: int | None = None, more: Mapping[str, str] = _NO_MORE
    ) -> None:
        """Begin an answer; without ``length`` it lasts until the connection ends."""
        self.send_response(status)
        headers = {"Content-Type": kind, **_HEADERS, **self._embedding(), **more, "Connection": "close"}
        headers["Content-Security-Policy"] += " ".join(self.server.embed) or "'none'"
        if length is not None:
            headers["Content-Length"] = str(length)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = "GET, HEAD"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _embedding(self) -> dict[str, str]:
        """Headers that let only pages of the allowed origins embed this answer."""
        closed = {"Cross-Origin-Resource-Policy": "same-origin"}
        if not self.server.embed:
            return closed
        asked = getattr(self, "headers", None) or {}  # there are none if the request could not be read
        origin = asked.get("Origin") or "/".join(asked.get("Referer", "").split("/")[:3])
        if origin.lower() not in self.server.embed:
            return {**closed, "Vary": "Origin, Referer"}
        return {
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Access-Control-Allow-Origin": origin,
            "Vary": "Origin, Referer",
        }

    def gone(self) -> bool:
        """Whether the other side has hung up."""
        self.connection.settimeout(0)
        try:
            return not self.connection.recv(1024)
        except BlockingIOError:
            return False
        finally:
            self.connection.settimeout(SEND_S)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send an error; the answer repeats nothing of the request."""
        self.whole("text/plain; charset=utf-8", f"{code} {HTTPStatus(code).phrase}\n".encode(), status=code)

    def version_string(self) -> str:
        return "segpress"

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)


Route = Callable[[Request], None]


class Places:
    """A limit on the number of viewers at a time."""

    def __init__(self, count: int) -> None:
        self._count, self._taken = count, 0
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        return self._taken

    @contextmanager
    def one(self, request: Request) -> Iterator[bool]:
        """Takes a place while entered. Yields False, and has answered the request, if all places are taken."""
        with self._lock:
            free = self._taken < self._count
            self._taken += free
        try:
            if not free:
                request.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            yield free
        finally:
            with self._lock:
                self._taken -= free


def _name_in(host: str) -> str:
    """The name in a header ``Host``, without the port, in lower case."""
    return (host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]).lower()


class WebServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Listens after construction, and answers after :meth:`start`.

    On a loopback address it answers only requests whose header ``Host`` names that address. So a foreign page whose
    host name resolves to this machine (DNS rebinding) reads nothing.

    Args:
        host, port: address to listen on; port 0 takes a free one.
        routes: path -> function that answers.
        hosts: more host names, which a proxy may send.
        embed: origins (``https://dashboard.lan``) whose pages may show this one in a frame, and its pictures.

    Raises:
        UserError: the address is not known, not of this machine, in use, or not allowed.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 32
    allow_reuse_address = os.name != "nt"  # Windows would let two programs share one port

    def __init__(
        self,
        host: str,
        port: int,
        routes: Mapping[str, Route],
        *,
        hosts: Collection[str] = (),
        embed: Sequence[str] = (),
    ) -> None:
        self.routes = routes
        self.embed = tuple(origin.lower() for origin in embed)
        self._refused: set[str] = set()
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.address_family, _, _, _, address = addresses[0]
            super().__init__(address[:2], Request)  # type: ignore[arg-type]
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"--serve: {host}:{port} cannot be served ({reason}); name another port, or 0 for any that is free; "
                "the host is an address of this machine, 127.0.0.1 by default"
            ) from error
        bound = ipaddress.ip_address(str(self.server_address[0]).split("%")[0])
        self.port = self.server_address[1]
        self.is_local = bound.is_loopback
        self._names = {"localhost", "127.0.0.1", "::1", str(bound), host.lower()}
        self._names |= {name.lower() for name in hosts}
        shown = socket.gethostname() if bound.is_unspecified else str(bound)
        self.address = f"http://{f'[{shown}]' if ':' in shown else shown}:{self.port}/"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="page server", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop listening; answers that have begun are completed."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def knows_itself_as(self, host: str) -> bool:
        """Whether the header ``Host`` of a request may name this server. Any port is allowed: it can be forwarded."""
        return not self.is_local or _name_in(host) in self._names

    def report_refused(self, host: str) -> None:
        """Log a refused host name, once, with the option that allows it."""
        name = _name_in(host)
        if name in self._refused or len(self._refused) >= _REPORTED:
            return
        self._refused.add(name)
        if re.fullmatch(r"[a-z0-9._:-]{1,253}", name):
            _log.warning("page: refused a request for the host %s; if that is you: --allow-host %s", name, name)
        else:
            _log.warning("page: refused a request without a name of a host")

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("answering %s failed", client_address)
