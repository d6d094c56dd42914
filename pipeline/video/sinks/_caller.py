"""Sends lines of JSON to a URL in the background; the run never waits."""

from __future__ import annotations

import base64
import http.client
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

log = logging.getLogger(__name__)

#: Answers after which another attempt may succeed.
_LATER = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}


@dataclass(frozen=True)
class _Refusal:
    reason: str
    again: bool  # another attempt makes sense


class Caller:
    """POSTs lines to one address, in order, in its own thread. Lines that are not delivered are counted.

    Redirections are not followed: data goes only to the address of the user. Proxies of the environment are used.

    Args:
        url: http or https; a user and a password in it are sent as basic authorisation.
        timeout: seconds to connect, and to receive each part of the answer.
        pauses: seconds before the second attempt, the third, ...
        waiting: most lines that wait; one more drops the oldest.

    Attributes:
        address: scheme and host, for messages; the path may be secret.
        delivered, failed: numbers of lines.
        reason: why the last failed line failed; empty if none failed.
    """

    def __init__(
        self, url: str, *, timeout: float = 5.0, pauses: Sequence[float] = (0.5, 2.0), waiting: int = 100
    ) -> None:
        parts = urlsplit(url)
        assert parts.scheme in ("http", "https")
        host = parts.netloc.rpartition("@")[2]
        self.address = f"{parts.scheme}://{host}"
        self.delivered = self.failed = 0
        self.reason = ""
        self._url = urlunsplit((parts.scheme, host, parts.path or "/", parts.query, ""))
        self._headers = {"Content-Type": "application/json", "User-Agent": "segpress"}
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(secret).decode()}"
        self._timeout, self._pauses = timeout, pauses
        self._opener = OpenerDirector()
        for handler in (ProxyHandler, HTTPHandler, HTTPSHandler, HTTPErrorProcessor, HTTPDefaultErrorHandler):
            self._opener.add_handler(handler())
        self._lines: deque[bytes] = deque(maxlen=waiting)
        self._busy = self._closing = self._failing = False
        self._changed = threading.Condition()  # guards all attributes that change
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="event calls", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Queue a line; returns at once."""
        with self._changed:
            if len(self._lines) == self._lines.maxlen:
                self._fail("too many lines wait for it")
            self._lines.append(line)
            self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """Wait at most ``seconds`` for the lines that are left; then the rest counts as failed."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)
        with self._changed:
            self._given_up.set()
            for _ in range(len(self._lines) + self._busy):
                self._fail(self.reason or "no answer before the end of the run")
            self._lines.clear()
            self._busy = False

    def _fail(self, reason: str) -> None:
        """Count a failure, and warn of the first one after a success. The lock is held."""
        if not self._failing:
            log.warning("%s: an event could not be delivered (%s); failures are counted", self.address, reason)
        self._failing = True
        self.failed += 1
        self.reason = reason

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closing)
                if not self._lines:
                    return
                line, self._busy = self._lines.popleft(), True
            refusal = self._deliver(line)
            with self._changed:
                if self._given_up.is_set():  # close() has counted this line
                    return
                self._busy = False
                if refusal is None:
                    self.delivered += 1
                    self._failing = False
                else:
                    self._fail(refusal.reason)

    def _deliver(self, line: bytes) -> _Refusal | None:
        """Try to deliver a line, a few times; None: delivered."""
        refusal = self._post(line)
        for pause in self._pauses:
            if refusal is None or not refusal.again or self._given_up.wait(pause):
                break
            refusal = self._post(line)
        return refusal

    def _post(self, line: bytes) -> _Refusal | None:
        request = Request(self._url, data=line, headers=self._headers, method="POST")  # noqa: S310 - http or https
        start = time.monotonic()
        try:
            with self._opener.open(request, timeout=self._timeout):
                return None
        except HTTPError as error:
            error.close()
            where = "; it redirects, give the final address" if 300 <= error.code < 400 else ""
            return _Refusal(f"answer {error.code}{where}", error.code >= 500 or error.code in _LATER)
        except TimeoutError:
            return _Refusal(f"no answer within {time.monotonic() - start:.1f} s", True)
        except URLError as error:
            if isinstance(error.reason, TimeoutError):
                return _Refusal(f"no connection within {time.monotonic() - start:.1f} s", True)
            reason = getattr(error.reason, "strerror", None) or error.reason
            return _Refusal(str(reason), True)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return _Refusal(getattr(error, "strerror", None) or f"{type(error).__name__}: {error}", True)
