"""Calls of an address with real servers that answer, refuse, are slow, disappear, redirect or do not exist."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.video.sinks._caller import Caller
from tests.video.hook import Hook


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,nowhere.invalid")


@pytest.fixture
def hook() -> Iterator[Callable[..., Hook]]:
    started: list[Hook] = []

    def start(**options: Any) -> Hook:
        started.append(Hook(**options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def call(url: str, count: int, *, last: float = 5.0, **options: Any) -> tuple[Caller, float]:
    """A caller after ``count`` lines, and the seconds that putting them took."""
    caller = Caller(url, **{"pauses": (0.01, 0.01), **options})
    caller.start()
    start = time.perf_counter()
    for number in range(count):
        caller.put(b'{"number": %d}' % number)
    seconds = time.perf_counter() - start
    caller.close(last)
    return caller, seconds


def test_lines_arrive_in_order(hook: Callable[..., Hook], caplog: pytest.LogCaptureFixture) -> None:
    server = hook()
    caller, _ = call(server.url, 20)
    assert server.bodies == [{"number": number} for number in range(20)]
    path, headers = server.requests[0]
    assert (path, headers["Content-Type"]) == ("/hook?key=secret", "application/json")
    assert "Authorization" not in headers
    assert (caller.delivered, caller.failed, caller.reason) == (20, 0, "")
    assert not caplog.messages


def test_a_password_is_sent_and_never_shown(hook: Callable[..., Hook], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = hook(status=lambda number: 404)
    host = server.url.removeprefix("http://")
    caller, _ = call(f"http://me:p%40ss@{host}", 1)
    assert server.requests[0][1]["Authorization"] == "Basic bWU6cEBzcw=="  # me:p@ss
    assert caller.address == f"http://127.0.0.1:{server.server_address[1]}"
    assert len(caplog.messages) == 1
    assert "could not be delivered (answer 404)" in caplog.text
    assert not any(secret in caplog.text for secret in ("secret", "p@ss", "p%40ss"))


def test_a_server_that_refuses_is_not_asked_again(hook: Callable[..., Hook], caplog: pytest.LogCaptureFixture) -> None:
    server = hook(status=lambda number: 403)
    caller, _ = call(server.url, 3)
    assert len(server.bodies) == 3
    assert (caller.delivered, caller.failed, caller.reason) == (0, 3, "answer 403")
    assert len(caplog.messages) == 1, "one warning"


def test_a_server_with_an_error_is_asked_again(hook: Callable[..., Hook]) -> None:
    server = hook(status=lambda number: (503, 429, 200)[(number - 1) % 3])
    caller, _ = call(server.url, 2)
    assert server.bodies == [{"number": number} for number in (0, 0, 0, 1, 1, 1)]
    assert (caller.delivered, caller.failed) == (2, 0)
    broken = hook(status=lambda number: 500)
    caller, _ = call(broken.url, 2)
    assert len(broken.bodies) == 6, "three attempts each, no more"
    assert (caller.delivered, caller.failed, caller.reason) == (0, 2, "answer 500")


def test_redirections_are_not_followed(hook: Callable[..., Hook]) -> None:
    server = hook(status=lambda number: 307)
    caller, _ = call(server.url, 1)
    assert [path for path, _ in server.requests] == ["/hook?key=secret"]
    assert caller.reason == "answer 307; it redirects, give the final address"


def test_a_slow_server_does_not_delay_the_run(hook: Callable[..., Hook]) -> None:
    server = hook(delay=0.05)
    caller, seconds = call(server.url, 50, last=20.0, waiting=10)
    assert seconds < 0.5
    assert 10 <= caller.delivered < 50
    assert caller.reason == "too many lines wait for it"
    assert caller.delivered + caller.failed == 50, "every line is counted once"
    numbers = [body["number"] for body in server.bodies]
    assert numbers == sorted(set(numbers))
    assert numbers[-10:] == list(range(40, 50)), "the newest ten waited"


def test_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        caller, seconds = call(url, 2, timeout=0.1)
    assert seconds < 0.1
    assert (caller.delivered, caller.failed) == (0, 2)
    assert re.fullmatch(r"no answer within 0\.\d s", caller.reason)


def test_the_end_is_waited_for_a_limited_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        start = time.perf_counter()
        caller, _ = call(url, 4, timeout=30.0, last=0.2)
        assert time.perf_counter() - start < 5.0
        assert (caller.delivered, caller.failed) == (0, 4)
        assert caller.reason == "no answer before the end of the run"


def test_a_server_that_disappears_and_returns(hook: Callable[..., Hook], caplog: pytest.LogCaptureFixture) -> None:
    server = hook()
    port = server.server_address[1]
    caller = Caller(server.url, pauses=(0.01,))
    caller.start()

    def put(number: int, counted: int) -> None:
        caller.put(b'{"number": %d}' % number)
        until = time.monotonic() + 5
        while caller.delivered + caller.failed < counted:
            assert time.monotonic() < until
            time.sleep(0.005)

    put(0, 1)
    server.stop()
    put(1, 2)
    put(2, 3)
    assert (caller.delivered, caller.failed, caller.reason) == (1, 2, "Connection refused")
    again = hook(port=port)
    put(3, 4)
    caller.close(5.0)
    assert again.bodies == [{"number": 3}]
    assert (caller.delivered, caller.failed) == (2, 2)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"])
def test_invalid_answers(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        caller, _ = call(f"http://127.0.0.1:{server.getsockname()[1]}/", 1, pauses=(0.01,))
    assert (caller.delivered, caller.failed) == (0, 1)
    assert caller.reason


def test_a_host_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    caller, _ = call("https://nowhere.invalid/x", 1)
    assert (caller.failed, caller.reason) == (1, "Name or service not known")


def test_a_server_that_never_ends_its_answer() -> None:
    """Every part of the answer arrives in time, without end: the run ends anyway."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with contextlib.suppress(OSError), connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while True:
                    connection.sendall(b"X: y")
                    time.sleep(0.02)

        threading.Thread(target=serve, daemon=True).start()
        start = time.perf_counter()
        caller, _ = call(f"http://127.0.0.1:{server.getsockname()[1]}/", 3, timeout=10.0, last=0.2)
        assert time.perf_counter() - start < 5.0
        assert (caller.delivered, caller.failed) == (0, 3)
