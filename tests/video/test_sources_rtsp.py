"""Streams of a real RTSP server on this machine: frames, lag, outages."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.video.sources import Frame, Source, open_source
from pipeline.video.sources._address import of_url
from pipeline.video.sources._container import Timeouts
from pipeline.video.sources._live import Patience
from pipeline.video.sources.stream import open_stream
from tests.video.fakes import take
from tests.video.system_python import RTSP_PACKAGES, RTSP_SERVER, SYSTEM_PYTHON

av = pytest.importorskip("av", reason="streams are read with PyAV")
QUICK = Patience(Timeouts(open=3, read=0.6), total=20, first_wait=0.1, longest_wait=0.4)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Rtsp:
    """The server of rtsp_server.py, which can be stopped and started again."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self.options = options
        self.url = f"rtsp://127.0.0.1:{self.port}/live"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [SYSTEM_PYTHON, RTSP_SERVER, str(self.port), *self.options],
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"]},
        )
        assert self.process.stdout is not None
        try:
            assert self.process.stdout.readline() == b"ready\n"
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)

    def pause(self, seconds: float) -> None:
        self.process.send_signal(signal.SIGSTOP)
        threading.Timer(seconds, self.process.send_signal, [signal.SIGCONT]).start()


@pytest.fixture
def rtsp(needs: Callable[..., None]) -> Iterator[Callable[..., Rtsp]]:
    needs(RTSP_PACKAGES, RTSP_SERVER, "--check")
    servers: list[Rtsp] = []

    def start(*options: str) -> Rtsp:
        servers.append(Rtsp(*options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def lag(frame: Frame) -> int:
    """Milliseconds since the server drew the frame: its bits against the clock that both share."""
    luma = frame.picture.planes[0]
    row = luma[luma.shape[0] // 4]
    bits = [int(row[(2 * bit + 1) * len(row) // 32] > 128) for bit in range(16)]
    drawn = int("".join(map(str, bits)), 2)
    return (int(frame.arrived * 1000) - drawn) % 2**16  # perf_counter and GLib's clock are both CLOCK_MONOTONIC


def test_rtsp(rtsp: Callable[..., Rtsp], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    server = rtsp("--user", "admin:se%cret")
    address = server.url.replace("//", "//admin:se%25cret@")
    source = open_source(address)
    assert (source.name, source.live, source.fps) == (server.url, True, 25.0)
    frames = take(source, 30)
    source.close()
    assert {f.picture.size for f in frames} == {(64, 128)}
    assert len(frames[0].picture.planes) == 3
    begin, end = frames[10].timestamp, frames[-1].timestamp  # the first frames were waiting, and come at once
    assert begin is not None
    assert end == pytest.approx(begin + 19 / 25, abs=0.4)
    assert sorted(lag(f) for f in frames[10:])[10] < 250
    for url, message in (
        (address.replace("se%25cret", "wr0ng"), r"401 Unauthorized .*; check user and password"),
        (address + "/gone", r"404 Not Found\); check the path"),
        (f"rtsp://admin:wr0ng@127.0.0.1:{free_port()}/", r"Connection refused\); check the address, its port"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            open_source(url)
        assert "wr0ng" not in str(caught.value)
        assert "cret" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "av", None)  # OpenCV reads it, too
    source = open_source(address)
    assert {f.picture.size for f in take(source, 3)} == {(64, 128)}
    source.close()
    with pytest.raises(UserError, match=r"OpenCV cannot open it\); check address, port, user and password"):
        open_source(address.replace("se%25cret", "wr0ng"))
    output = capfd.readouterr()
    assert "wr0ng" not in output.err + output.out
    assert "cret" not in output.err + output.out


def outages(server: Rtsp, source: Source, seconds: float) -> list[Frame]:
    """Frames of a stream that stalls and then vanishes, each for some seconds, and returns each time."""
    seen = []
    plan = [lambda: server.pause(seconds), server.kill, None]
    for frame in source.frames():
        seen.append(frame)
        if len(seen) % 15 == 0:
            act = plan.pop(0)
            if act is None:
                break
            act()
            if act == server.kill:
                threading.Timer(seconds, server.start).start()
    source.close()
    return seen


def check_outages(seen: list[Frame], text: str, seconds: float) -> None:
    times = [f.timestamp for f in seen if f.timestamp is not None]
    assert times == sorted(times)
    gaps = sorted(np.diff(times))[-2:]
    assert all(seconds - 0.8 < gap < 2 * seconds + 5 for gap in gaps), gaps
    assert [f.name for f in seen] == [f"127-0-0-1-live-{i:06d}" for i in range(45)]
    assert lag(seen[-1]) < 400, "no lag remains"
    assert text.count("connecting again") == text.count("frames again") == 2


def test_rtsp_that_stalls_and_vanishes(rtsp: Callable[..., Rtsp], caplog: pytest.LogCaptureFixture) -> None:
    server = rtsp()
    source = open_stream(of_url(server.url), av, patience=QUICK)
    check_outages(outages(server, source, 1.6), caplog.text, 1.6)


@pytest.mark.slow
def test_rtsp_that_stalls_and_vanishes_for_10_s(rtsp: Callable[..., Rtsp], caplog: pytest.LogCaptureFixture) -> None:
    server = rtsp()
    check_outages(outages(server, open_source(server.url, read_timeout=3), 10), caplog.text, 10)


def test_stop_while_a_stream_stalls(rtsp: Callable[..., Rtsp]) -> None:
    server = rtsp()
    source = open_source(server.url)
    frames = source.frames()
    next(frames)
    server.pause(3)
    threading.Timer(0.5, source.stop).start()
    begin = time.perf_counter()
    assert len(list(frames)) < 20
    assert time.perf_counter() - begin < 1.5
    begin = time.perf_counter()
    source.close()
    assert time.perf_counter() - begin < 1.5
