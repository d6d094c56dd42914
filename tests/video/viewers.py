"""Viewers of the live page over real connections, and threads that write to it meanwhile."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np

from pipeline.frames import Array
from pipeline.video.sinks._base import Result
from pipeline.video.sinks.page import PageSink, SourcePage
from pipeline.video.sinks.tiles import SharedPage

MakeResult = Callable[..., Result]
Serve = Callable[..., PageSink]
Page = PageSink | SharedPage


def connect(sink: Page, request: str | bytes, *, timeout: float = 10) -> socket.socket:
    """A connection that has sent ``request``, a path or raw bytes."""
    assert sink._server is not None
    connection = socket.create_connection(("127.0.0.1", sink._server.port), timeout=timeout)
    if isinstance(request, str):
        request = f"GET {request} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    connection.sendall(request)
    return connection


def get(sink: Page, path: str, *, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers and body."""
    assert sink._server is not None
    connection = http.client.HTTPConnection("127.0.0.1", sink._server.port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def pictures(sink: Page, *, at: str = "/") -> Iterator[bytes]:
    """JPEGs of the stream, read as multipart/x-mixed-replace."""
    with connect(sink, f"{at}stream") as connection, connection.makefile("rb") as stream:
        assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
        head = b"".join(iter(stream.readline, b"\r\n"))
        assert b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\n" in head
        assert stream.readline() == b"--frame\r\n"
        while True:
            part = b"".join(iter(stream.readline, b"\r\n"))
            header = re.fullmatch(rb"Content-Type: image/jpeg\r\nContent-Length: (\d+)\r\n", part)
            assert header, part
            yield stream.read(int(header[1]))
            assert stream.read(11) == b"\r\n--frame\r\n"


def events(sink: Page, *, visit: str = "", at: str = "/") -> Iterator[tuple[str, Any]]:
    """Server-sent events, by name."""
    with connect(sink, f"{at}events?{visit}") as connection, connection.makefile("rb") as stream:
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
def producing(sink: SourcePage, make: Callable[[int], Result], *, fps: float) -> Iterator[list[float]]:
    """Writes results in a thread, as the pipeline does. Yields the list of times in seconds that writes took."""
    over, taken = threading.Event(), list[float]()

    def run() -> None:
        while not over.wait(1 / fps):
            result = make(len(taken))
            start = time.perf_counter()
            sink.write(result)
            taken.append(time.perf_counter() - start)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join(60)


def until(true: Callable[[], bool], *, seconds: float = 10) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.01)


def snapshot(page: SharedPage, number: int, after: int = 0) -> tuple[int, Any]:
    """Number of the picture and its mean; (0, None) if there is none."""
    status, headers, body = get(page, f"/{number}/picture?after={after}")
    if status == 204:
        assert body == b""
        return 0, None
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    return int(headers["X-Picture-Number"]), decoded(body).mean()
