"""Servers and receivers of streams on this machine, and the frames that are sent to them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.video.sinks import Result, StreamSink
from tests.video.fakes import grey
from tests.video.system_python import RTSP_PACKAGES, RTSP_SERVER, SYSTEM_PYTHON

av = pytest.importorskip("av", reason="streams are sent with PyAV")


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def camera(make_result: Callable[..., Result]) -> Callable[[int], Result]:
    """A result that arrives now, with a brightness that follows from its number and repeats: 16, 26, 36, ..."""
    return lambda index: make_result(index, picture=grey(16 + 10 * (index % 20)), arrived=time.perf_counter())


def numbers(brightness: list[float]) -> list[int]:
    """Number (0 to 19) of each picture, from its grey value in 0..255."""
    return [round((value - 16) / 10) for value in brightness]


class Receiver:
    """Reads an address in a thread, until it ends.

    Attributes:
        frames: (seconds, brightness) of each frame.
    """

    def __init__(self, address: str, **options: str) -> None:
        self.frames: list[tuple[float, float]] = []
        self.keys = 0
        self.error: Exception | None = None
        self._arguments = (address, options)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        address, options = self._arguments
        try:
            with av.open(address, options={"analyzeduration": "100000", **options}, timeout=5) as container:
                for frame in container.decode(video=0):
                    self.keys += frame.key_frame
                    self.frames.append((frame.time, float(np.mean(frame.to_ndarray(format="bgr24")))))
        except av.error.FFmpegError as error:  # no more data came
            self.error = error


class Recorder:
    """The server of rtsp_server.py that takes a stream; it can be killed, stopped and started again."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self.url = f"rtsp://127.0.0.1:{self.port}/live"
        self.options = options
        self.start()

    def start(self) -> None:
        self.lines: list[list[int]] = []
        self.process = subprocess.Popen(
            [SYSTEM_PYTHON, RTSP_SERVER, str(self.port), "--record", *self.options],
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        assert self.process.stdout is not None
        try:
            assert self.process.stdout.readline() == "ready\n"
        except BaseException:
            self.kill()
            raise
        threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True).start()

    def _read(self, output: Any, lines: list[list[int]]) -> None:
        for line in output:
            *words, luma = (int(word) for word in line.split()[1:])
            lines.append([*words, round((luma - 16) * 255 / 219)])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=30)


@pytest.fixture
def recorder(needs: Callable[..., None]) -> Iterator[Callable[..., Recorder]]:
    needs(RTSP_PACKAGES, RTSP_SERVER, "--check", "--record")
    servers: list[Recorder] = []

    def start(*options: str) -> Recorder:
        servers.append(Recorder(*options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.02)


def feed(sink: StreamSink, camera: Callable[[int], Result], first: int, count: int, *, pause: float = 0.03) -> float:
    """Write ``count`` frames. Returns the longest time of one write."""
    longest = 0.0
    for index in range(first, first + count):
        begin = time.perf_counter()
        sink.write(camera(index))
        longest = max(longest, time.perf_counter() - begin)
        time.sleep(pause)
    return longest
