"""A live web page for several sources that run at the same time: an overview with a tile for each, and their pages."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Any

from pipeline.video.sinks._base import Result
from pipeline.video.sinks._figures import PageSettings
from pipeline.video.sinks._pictures import Pictures
from pipeline.video.sinks._web import Places, Request, Route, WebServer
from pipeline.video.sinks.page import (
    LAST_S,
    TICK_S,
    VIEWERS,
    SourcePage,
    as_json,
    checked_hosts,
    checked_origins,
    file_routes,
    open_server,
)

SNAPSHOTS = 32  # requests for pictures that wait at a time; a browser sends four
_SIDE = 640  # largest height or width of the picture of a tile
_RATE = 10.0  # most pictures per second of one tile
_WAIT_S = 1.0  # that a request waits for a newer picture
_LARGEST = 3  # classes that a tile names
_NUMBER = "X-Picture-Number"
_FILES = {
    "/": ("text/html; charset=utf-8", "tiles.html"),
    "/tiles.css": ("text/css; charset=utf-8", "tiles.css"),
    "/page.css": ("text/css; charset=utf-8", "page.css"),
    "/tiles.js": ("text/javascript; charset=utf-8", "live.js", "tiles.js"),
}
_ON_A_TILE = ("state", "frames", "quiet_s", "fps", "age_ms", "dropped", "size")


class TileSink(SourcePage):
    """The page of one source among several, and its tile in the overview. :meth:`SharedPage.sink` creates it.

    Args:
        page: settings of the page.
        name: of the source; no other source has it.
        snapshots: limit on requests that wait for the picture of a tile, shared by all tiles.
    """

    def __init__(self, page: PageSettings, *, name: str, snapshots: Places) -> None:
        super().__init__(page)
        self.name = name
        self._small = Pictures(side=_SIDE, rate=_RATE)
        self._snapshots = snapshots

    def __enter__(self) -> TileSink:
        super().__enter__()
        self._small.start()
        return self

    def write(self, result: Result) -> None:
        super().write(result)
        assert result.picture is not None
        self._small.offer(result.picture)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._small.finish()
        super().__exit__(kind, error, trace)

    def routes(self) -> dict[str, Route]:
        return {**super().routes(), "/picture": self._send_picture}

    def fail(self) -> None:
        """Show that the source failed before this sink was entered. No effect if the source has ended."""
        if not self._over.is_set():
            self._figures.state = "failed"
            self._over.set()

    def tile(self) -> dict[str, Any]:
        """The part of :meth:`pipeline.video.sinks._figures.Figures.now` that the tile shows, and ``largest``: index in
        ``classes`` and share of the pixels (0 to 1) of the three largest classes, the largest first."""
        now = self._figures.now()
        shares = list(enumerate(now.get("shares", [])))
        largest = sorted((pair for pair in shares if pair[1]), key=lambda pair: -pair[1])[:_LARGEST]
        return {**{key: now[key] for key in _ON_A_TILE if key in now}, "largest": largest}

    def state(self) -> dict[str, Any]:
        """All values of :class:`pipeline.video.sinks._figures.Figures`, with the ``name`` of the source."""
        return {**self.about(), **self._figures.now()}

    def about(self) -> dict[str, Any]:
        """The values that do not change, with the ``name`` of the source."""
        return {"name": self.name, **self._figures.about()}

    def _about(self) -> dict[str, Any]:
        return {**super()._about(), "overview": True}

    def _send_picture(self, request: Request) -> None:
        """One JPEG and its number. With ``?after=NUMBER`` a newer one; status 204 if there is none within a second.

        Pictures are encoded while a request waits, and not between requests.
        """
        query = request.path.partition("?")[2]
        match = re.fullmatch(r"(?:after=(\d{1,15}))?", query, re.ASCII)
        if match is None:
            request.send_error(HTTPStatus.BAD_REQUEST)
            return
        with self._snapshots.one(request) as free:
            if not free:
                return
            if request.only_head:
                request.begin("image/jpeg")
                return
            newer = self._small.snapshot(int(match[1] or 0), seconds=0 if self._over.is_set() else _WAIT_S)
            if newer is None:
                request.begin("image/jpeg", status=HTTPStatus.NO_CONTENT)
                return
            number, jpeg = newer
            request.whole("image/jpeg", jpeg, more={_NUMBER: str(number)})


class _Awaited:
    """The tile of a source that is not open yet: it waits, or has failed. Its page leads to the overview."""

    def __init__(self, name: str) -> None:
        self.name, self.address = name, ""
        self._state = "waiting"

    def routes(self) -> dict[str, Route]:
        return {"/": partial(_redirect, place="../")}

    def fail(self) -> None:
        self._state = "failed"

    def tile(self) -> dict[str, Any]:
        return {"state": self._state, "frames": 0, "largest": []}

    def about(self) -> dict[str, Any]:
        return {"name": self.name, "title": self.name, "engine": "", "classes": []}

    def state(self) -> dict[str, Any]:
        return {**self.about(), "state": self._state, "frames": 0}

    def close(self) -> None:
        """Nothing to end."""


class SharedPage:
    """Serves one page for several sources. Each source writes to its own sink, in any thread.

    ``/`` is the overview, ``/1/``, ``/2/`` ... are the pages of the sources. The page is served from entering until
    leaving. Sinks can be created before or after. Their writers enter and leave them, in any order and any thread. If a
    source ends or fails, its tile shows that, and the others do not change.

    Args:
        host, port: address to listen on, see :func:`pipeline.video.sinks.page.parse_address`; port 0 takes a free one.
        names: names of sources in the order of their tiles, which wait until :meth:`sink` is called. Other sources come
            after them.
        hosts, embed: see :class:`pipeline.video.sinks._web.WebServer`.

    Raises:
        UserError: an invalid host or origin; on entering, if the address cannot be served.

    Example:
        >>> with SharedPage("127.0.0.1", 0) as page:
        ...     page.address.startswith("http://127.0.0.1:")
        True
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        names: Sequence[str] = (),
        hosts: Sequence[str] = (),
        embed: Sequence[str] = (),
    ) -> None:
        self._host, self._port = host, port
        self._hosts, self._embed = checked_hosts(hosts), checked_origins(embed)
        self._figures, self._snapshots = Places(VIEWERS), Places(SNAPSHOTS)
        self._changing, self._closed = threading.Lock(), threading.Event()
        self._routes: dict[str, Route] = file_routes(_FILES)
        self._routes |= {"/state": self._send_state, "/events": self._send_figures}
        self._sources: dict[str, TileSink | _Awaited] = {}
        for name in names:
            self._place(name, _Awaited(name))
        self._server: WebServer | None = None
        self.address = ""

    def sink(self, name: str, page: PageSettings) -> TileSink:
        """The sink of one source.

        Args:
            name: of the source; no other source has it.
            page: settings of its page.

        Raises:
            ValueError: there is a sink of this name.
        """
        sink = TileSink(page, name=name, snapshots=self._snapshots)
        with self._changing:
            if isinstance(self._sources.get(name), TileSink):
                raise ValueError(f"{name!r}: is the name of two sources")
            number = self._place(name, sink)
            if self._server is not None:
                sink.address = f"{self.address}{number}/"
        return sink

    def fail(self, name: str) -> None:
        """Show that a source failed before its sink was entered. No effect if the source has ended.

        Raises:
            KeyError: there is no such source.
        """
        self._sources[name].fail()

    def __enter__(self) -> SharedPage:
        server = open_server(self._host, self._port, self._routes, hosts=self._hosts, embed=self._embed)
        with self._changing:
            self._server, self.address = server, server.address
            for number, source in enumerate(self._sources.values(), start=1):
                source.address = f"{self.address}{number}/"
        server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._figures.taken:
            time.sleep(LAST_S)  # so that viewers get the last figures
        self.close()

    def close(self) -> None:
        """Stop serving the page; may be called again."""
        if self._closed.is_set():
            return
        self._closed.set()
        for source in self._all():
            source.close()
        if self._server is not None:
            self._server.close()

    def _all(self) -> list[TileSink | _Awaited]:
        with self._changing:
            return list(self._sources.values())

    def _place(self, name: str, source: TileSink | _Awaited) -> int:
        """Add a source, or replace the waiting one of this name. Returns its number."""
        self._sources[name] = source
        number = list(self._sources).index(name) + 1
        self._routes[f"/{number}"] = partial(_redirect, place=f"{number}/")
        self._routes |= {f"/{number}{path}": route for path, route in source.routes().items()}
        return number

    def _send_state(self, request: Request) -> None:
        request.whole("application/json", as_json({"sources": [source.state() for source in self._all()]}) + b"\n")

    def _send_figures(self, request: Request) -> None:
        """Server-sent events: ``about`` of all sources, again when a source is added, and ``figures`` of all sources
        four times per second."""
        with self._figures.one(request) as free:
            if not free:
                return
            request.begin("text/event-stream")
            if request.only_head:
                return
            sent: list[TileSink | _Awaited] | None = None
            while not (self._closed.is_set() or request.gone()):
                sources = self._all()
                if sources != sent:
                    about = {"sources": [source.about() for source in sources]}
                    request.wfile.write(b"event: about\ndata: " + as_json(about) + b"\n\n")
                    sent = sources
                figures = {"sources": [source.tile() for source in sources]}
                request.wfile.write(b"event: figures\ndata: " + as_json(figures) + b"\n\n")
                self._closed.wait(TICK_S)


def _redirect(request: Request, place: str) -> None:
    """Redirect to a path relative to the requested one, so that it works with a proxy under any path."""
    request.whole("text/plain; charset=utf-8", b"", status=HTTPStatus.FOUND, more={"Location": place})
