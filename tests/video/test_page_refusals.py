"""The live page over real connections: paths, names, requests and addresses that are refused."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

import pytest

from pipeline.errors import UserError
from pipeline.video.sinks import _web
from pipeline.video.sinks._base import Result
from pipeline.video.sinks.page import PageSink, parse_address
from tests.video.viewers import connect, get

MakeResult = Callable[..., Result]
Serve = Callable[..., PageSink]


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
    answered, _, body = get(serve(), path)
    assert answered == status
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
def test_foreign_host_names_are_refused(serve: Serve, host: str, status: int) -> None:
    sink = serve()
    for path in ("/", "/state"):
        assert get(sink, path, Host=host)[0] == status


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"200"),
        (b"HEAD /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"HEAD / HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"403"),
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
def test_invalid_addresses(text: str) -> None:
    with pytest.raises(UserError, match=r"--serve: got .*; allowed: PORT or HOST:PORT"):
        parse_address(text)
