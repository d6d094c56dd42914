"""The live page over real connections: what is served, what is refused, and that who watches slows nothing."""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tomllib

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.video.picture import Picture, Yuv
from pipeline.video.sinks import _web
from pipeline.video.sinks import page as pages
from pipeline.video.sinks._base import Result, Stop
from pipeline.video.sinks._figures import Figures
from pipeline.video.sinks.page import PageSink, parse_address

MakeResult = Callable[..., Result]
Serve = Callable[..., PageSink]


@pytest.fixture
def serve(labels: LabelSpec) -> Iterator[Serve]:
    """Starts a page on a free port; left and closed at the end if the test did not."""
    started: list[PageSink] = []

    def start(host: str = "127.0.0.1", port: int = 0, **options: Any) -> PageSink:
        sink = PageSink(host, port, **{"labels": labels, "title": "drive.mp4", **options})
        sink.__enter__()
        started.append(sink)
        return sink

    yield start
    for sink in started:
        sink.__exit__(None, None, None)
        sink.close()


def connect(sink: PageSink, request: str | bytes, *, timeout: float = 10) -> socket.socket:
    """A connection that has sent ``request``, a path or raw bytes."""
    assert sink._server is not None
    connection = socket.create_connection(("127.0.0.1", sink._server.port), timeout=timeout)
    if isinstance(request, str):
        request = f"GET {request} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    connection.sendall(request)
    return connection


def get(sink: PageSink, path: str, *, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers and body."""
    assert sink._server is not None
    connection = http.client.HTTPConnection("127.0.0.1", sink._server.port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def pictures(sink: PageSink) -> Iterator[bytes]:
    """JPEGs of the stream, as a reader of multipart/x-mixed-replace takes them."""
    with connect(sink, "/stream") as connection, connection.makefile("rb") as stream:
        assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
        head = b"".join(iter(stream.readline, b"\r\n"))
        assert b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\n" in head
        assert stream.readline() == b"--frame\r\n"
        while True:
            part = b"".join(iter(stream.readline, b"\r\n"))
            found = re.fullmatch(rb"Content-Type: image/jpeg\r\nContent-Length: (\d+)\r\n", part)
            assert found, part
            yield stream.read(int(found[1]))
            assert stream.read(11) == b"\r\n--frame\r\n"


def events(sink: PageSink, *, visit: str = "") -> Iterator[tuple[str, Any]]:
    """Server-sent events, by name."""
    with connect(sink, f"/events?{visit}") as connection, connection.makefile("rb") as stream:
        head = b"".join(iter(stream.readline, b"\r\n"))
        assert b"Content-Type: text/event-stream\r\n" in head
        while True:
            name, data, end = stream.readline(), stream.readline(), stream.readline()
            assert (name[:7], data[:6], end) == (b"event: ", b"data: ", b"\n")
            yield name[7:-1].decode(), json.loads(data[6:])


def decoded(jpeg: bytes) -> Array:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image, np.uint8)


@contextmanager
def producing(sink: PageSink, make: Callable[[int], Result], *, fps: float) -> Iterator[list[float]]:
    """Writes results in a thread, as the pipeline does. Yields how long each write took, in seconds."""
    over, taken = threading.Event(), list[float]()

    def run() -> None:
        while not over.wait(1 / fps):
            result = make(len(taken))
            start = time.perf_counter()
            sink.write(result)
            taken.append(time.perf_counter() - start)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


def until(true: Callable[[], bool], *, seconds: float = 10) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.01)


# what is served


def test_frames_arrive_small(serve: Serve, make_result: MakeResult) -> None:
    sink = serve(rate=100)
    image = np.zeros((720, 1280, 3), np.uint8)
    image[:, 640:] = (40, 90, 200)
    planes = [np.full((720, 1280), 150, np.uint8), *(np.full((360, 640), value, np.uint8) for value in (90, 170))]
    shown = (Picture.of_bgr(image), Picture(tuple(planes), Yuv(6)))
    stream = pictures(sink)
    sink.write(make_result(0, picture=shown[0]))
    first = decoded(next(stream))
    assert first.shape == (540, 960, 3)
    assert np.abs(first[270, [240, 720]].astype(int) - [[0, 0, 0], [40, 90, 200]]).max() < 6
    sink.write(make_result(1, picture=shown[1]))
    second = decoded(next(stream))
    whole = cv2.cvtColor(
        np.concatenate([plane.ravel() for plane in planes]).reshape(1080, 1280), cv2.COLOR_YUV2BGR_I420
    )
    assert np.abs(second[270, 480].astype(int) - whole[360, 640]).max() < 6
    for size, small in (((1080, 400), (960, 356)), ((48, 64), (48, 64))):  # high ones, and small ones as they are
        sink.write(make_result(2, picture=Picture.of_bgr(np.zeros((*size, 3), np.uint8))))
        assert decoded(next(stream)).shape[:2] == small


def test_the_page_and_its_parts(serve: Serve) -> None:
    sink = serve()
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        status, headers, body = get(sink, path)
        assert (status, headers.get_content_type(), int(headers["Content-Length"])) == (200, kind, len(body))
        assert body == (Path(pages.__file__).parent / (path.strip("/") or "page.html")).read_bytes()
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    html = get(sink, "/")[2].decode()
    assert not re.search(r"https?:|//|<style|style=|\son\w+=", html), "nothing from elsewhere, nothing inline"


def test_what_is_not_python_is_in_the_wheel() -> None:
    root = Path(__file__).parents[2]
    package = root / "pipeline"
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["pipeline"]
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert {"page.html", "page.css", "page.js"} <= {path.name for path in files}
    assert {path for pattern in patterns for path in package.glob(pattern)} == files


def test_events(serve: Serve, make_result: MakeResult) -> None:
    odd = LabelSpec(names=("<b>road</b>", "ä\n"), palette=((200, 0, 10), (0, 0, 255)))
    sink = serve(labels=odd, engine="kd/int8", rate=7.5)
    told = events(sink, visit="12-3")
    name, about = next(told)
    assert name == "about"
    assert about == {
        "title": "drive.mp4",
        "engine": "kd/int8",
        "rate": 7.5,
        "classes": [{"name": "<b>road</b>", "colour": "#c8000a"}, {"name": "ä\n", "colour": "#0000ff"}],
        "rest": "ignored",
    }
    assert next(told) == ("figures", {"state": "waiting", "frames": 0, "pictures": False})
    sink.write(make_result(5, arrived=time.perf_counter() - 0.2, dropped=2))
    name, figures = next(told)
    assert (name, figures["state"], figures["frames"], figures["dropped"]) == ("figures", "running", 6, 2)
    assert 200 <= figures["age_ms"] < 1000
    assert json.loads(get(sink, "/state")[2]).items() >= {**about, "frames": 6}.items()
    with connect(sink, "/stream?12-3"):
        until(lambda: next(told)[1]["pictures"])
    until(lambda: not next(told)[1]["pictures"])


def test_figures_by_hand(labels: LabelSpec, make_result: MakeResult) -> None:
    now = 100.0
    figures = Figures(labels=labels, title="x", engine="", rate=15, clock=lambda: now)
    assert figures.now() == {"state": "waiting", "frames": 0}
    # ten frames a second, of which this sink is handed every second one
    for step in range(20):
        now = 100 + 0.2 * step
        figures.note(make_result(2 * step, arrived=now - 0.01 * (1 + step % 3), infer_ms=float(step), dropped=step))
    found = figures.now()
    assert found == {
        "state": "running",
        "frames": 39,
        "quiet_s": 0.0,
        "fps": 10.0,
        "infer_ms": 14.0,  # median of 9 to 19, which came within 2 s
        "age_ms": 20.0,
        "dropped": 19,
        "size": [48, 64],
        "time_s": 1.52,
        "shares": [0.5, 0.25, 0.125, 0.0],
        "other": 0.125,
    }
    now += 5
    quiet = figures.now()
    assert (quiet["fps"], quiet["quiet_s"], quiet["infer_ms"], quiet["age_ms"]) == (0.0, 5.0, None, None)
    figures.state = "ended"
    assert figures.now() == {**found, "state": "ended"}, "at the end the last figures stay"


def test_only_some_classes(labels: LabelSpec, make_result: MakeResult) -> None:
    figures = Figures(labels=labels, title="x", engine="", rate=15, only={2, 1})
    figures.note(make_result())
    assert [entry["name"] for entry in figures.about()["classes"]] == ["car", "sky"]
    assert figures.about()["rest"] == "everything else"
    assert (figures.now()["shares"], figures.now()["other"]) == ([0.25, 0.125], 0.625)


# what it costs


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When JPEGs were made."""
    times, imencode = list[float](), cv2.imencode

    def counted(*arguments: Any) -> Any:
        times.append(time.monotonic())
        return imencode(*arguments)

    monkeypatch.setattr(cv2, "imencode", counted)
    return times


def test_nothing_is_encoded_unless_somebody_watches(
    serve: Serve, make_result: MakeResult, encoded: list[float]
) -> None:
    sink = serve(rate=50)
    told = events(sink)
    next(told)
    with producing(sink, make_result, fps=200):
        time.sleep(0.3)
        assert not encoded
        stream = pictures(sink)
        next(stream)
        stream.close()
        until(lambda: not sink._pictures.watchers)
        time.sleep(0.1)
        before = len(encoded)
        time.sleep(0.3)
    assert len(encoded) == before > 0


def test_one_picture_for_all_and_no_more_than_asked_for(
    serve: Serve, make_result: MakeResult, encoded: list[float]
) -> None:
    sink = serve(rate=20)
    noise = [np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8) for seed in range(8)]
    seen: list[list[bytes]] = [[], [], []]

    def watch(mine: list[bytes]) -> None:
        stream = pictures(sink)
        mine += [next(stream) for _ in range(12)]
        stream.close()

    def make(index: int) -> Result:
        return make_result(index, picture=Picture.of_bgr(noise[index % 8]))

    threads = [threading.Thread(target=watch, args=(mine,)) for mine in seen]
    with producing(sink, make, fps=200):
        until(lambda: sink._figures.state == "running")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [len(mine) for mine in seen] == [12, 12, 12]
    assert len(set.intersection(*(set(mine) for mine in seen))) >= 4, "they are the same bytes"
    assert len(encoded) <= 20
    assert min(np.diff(encoded)) > 0.8 / 20


def test_a_viewer_that_never_reads_slows_nobody(
    serve: Serve, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_web, "SEND_S", 1.5)
    sink = serve(rate=50)
    noise = [np.random.default_rng(seed).integers(0, 256, (540, 960, 3), np.uint8) for seed in range(2)]

    def make(index: int) -> Result:  # 0.5 MB as JPEG
        return make_result(index, picture=Picture.of_bgr(noise[index % 2]))

    with producing(sink, make, fps=200) as taken, connect(sink, "/stream"):
        until(lambda: sink._pictures.watchers == 1)
        time.sleep(0.3)  # its connection is full now
        reader, begin = pictures(sink), time.monotonic()
        for _ in range(10):
            next(reader)
        lasted = time.monotonic() - begin
        assert sink._pictures.watchers == 2, "both are served at a time"
        until(lambda: sink._pictures.watchers == 1)  # it was let go
        assert len(next(reader)) > 100_000
        reader.close()
    assert lasted < 1.4, "pictures did not wait for it"
    assert np.median(taken) < 1e-3
    assert np.percentile(taken, 95) < 0.02


def test_a_viewer_that_left_is_noticed_without_pictures(
    serve: Serve, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_GONE_S", 0.05)
    monkeypatch.setattr(pages, "VIEWERS", 2)
    sink = serve()
    for _ in range(5):
        with connect(sink, "/stream") as connection:
            assert connection.recv(12) == b"HTTP/1.1 200"
            until(lambda: sink._pictures.watchers == 1)
        until(lambda: sink._pictures.watchers == 0, seconds=2)
    with connect(sink, "/stream"), connect(sink, "/stream"):
        until(lambda: sink._pictures.watchers == 2)
        assert get(sink, "/stream")[0] == 503
        assert get(sink, "/state")[0] == 200


def test_there_is_an_end_to_connections(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_web, "CONNECTIONS", 3)
    sink = serve()
    idle = [connect(sink, b"GET / HT") for _ in range(3)]
    time.sleep(0.1)
    with connect(sink, b"") as extra:
        assert extra.recv(10) == b""
    for connection in idle:
        connection.close()
    until(lambda: len(connect(sink, "/state").recv(10)) == 10)


# what is refused


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/?x=1", 200),
        ("/nothing", 404),
        ("/page.py", 404),
        ("/../page.py", 404),
        ("/%2e%2e/page.html", 404),
        ("//page.html", 404),
        ("http://localhost/", 404),
        ("/<script>alert(1)</script>", 404),
    ],
)
def test_only_known_paths(serve: Serve, path: str, status: int) -> None:
    found, _, body = get(serve(), path)
    assert found == status
    assert b"alert" not in body
    assert status == 200 or body == b"404 Not Found\n"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1234", 200),
        ("127.0.0.1:80", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::2]", 403),
        ("", 403),
    ],
)
def test_names_of_elsewhere_are_refused(serve: Serve, host: str, status: int) -> None:
    sink = serve()
    for path in ("/", "/state"):
        assert get(sink, path, Host=host)[0] == status


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"405"),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\n\r\n", b"403"),
        (b"<script> <script> <script> <script>\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /" + b"x" * (_web.HEAD_BYTES - 5), b"431"),
    ],
)
def test_odd_requests(serve: Serve, request_: bytes, status: bytes) -> None:
    with connect(serve(), request_) as connection:
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    assert b"script>" not in answer
    assert b"Python" not in answer


def test_slow_requests_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_web, "READ_S", 0.3)
    start = time.monotonic()
    with connect(serve(), b"GET / HTTP/1.1\r\n") as connection, pytest.raises(OSError, match=r"reset|[Bb]roken"):
        for _ in range(100):  # a header that never ends, byte by byte
            connection.sendall(b"x")
            time.sleep(0.02)
    assert 0.25 < time.monotonic() - start < 2


def test_addresses(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = serve()
    assert f"live page: {first.address}" in caplog.text
    assert "everybody" not in caplog.text
    port = int(first.address.rstrip("/").rpartition(":")[2])
    with pytest.raises(UserError, match=rf"--serve: 127\.0\.0\.1:{port} cannot be served \(Address already in use\)"):
        serve(port=port)
    with pytest.raises(UserError, match=r"192\.0\.2\.1:0 cannot be served"):
        serve("192.0.2.1")
    with pytest.raises(UserError, match=r"no\.such\.invalid:0 cannot be served"):
        serve("no.such.invalid")
    open_ = serve("0.0.0.0")
    assert "everybody on the network can watch" in caplog.text
    assert socket.gethostname() in open_.address
    assert get(open_, "/", Host="device.example")[0] == 200


@pytest.mark.parametrize("text", ["", "x", "80a", "65536", "-1", ":80", "::1:80", "[::1]", "a:", "²", "[]:80"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match=r"--serve: got .*; allowed: PORT or HOST:PORT"):
        parse_address(text)


# the end


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "ended"), (Stop(), "ended"), (KeyboardInterrupt(), "ended"), (UserError("x"), "failed")],
)
def test_the_end_is_told(labels: LabelSpec, make_result: MakeResult, error: BaseException | None, state: str) -> None:
    sink = PageSink("127.0.0.1", 0, labels=labels, title="x")
    sink.__enter__()
    try:
        told = events(sink)
        next(told)
        watcher = pictures(sink)
        sink.write(make_result(0))
        next(watcher)
        last = np.full((48, 64, 3), 200, np.uint8)
        sink.write(make_result(1, picture=Picture.of_bgr(last)))
        sink.__exit__(type(error) if error else None, error, None)
        until(lambda: next(told)[1]["state"] == state)
        assert np.abs(decoded(next(watcher)).astype(int) - 200).max() < 4, "the last picture is shown"
        # who comes later sees it, too
        assert json.loads(get(sink, "/state")[2])["state"] == state
        assert np.abs(decoded(next(pictures(sink))).astype(int) - 200).max() < 4
    finally:
        sink.close()
    with pytest.raises(OSError):
        get(sink, "/state")
