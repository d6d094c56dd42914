"""Overlays as a live stream when a server is gone, hangs or comes back."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.drawing.picture import Picture
from pipeline.video.loop import segment
from pipeline.video.sinks import Result, StreamSink
from tests.video import receivers
from tests.video.fakes import Bars, grey
from tests.video.receivers import Recorder, feed, free_port, numbers, until

camera = receivers.camera  # the fixture
recorder = receivers.recorder  # the fixture


def test_a_server_that_comes_back(
    recorder: Callable[..., Recorder], camera: Callable[[int], Result], caplog: pytest.LogCaptureFixture
) -> None:
    server = recorder()
    with StreamSink(server.url, live=True, timeout=3, patience=20) as sink:
        feed(sink, camera, 0, 10)
        until(lambda: len(server.lines) == 10)
        server.kill()
        threading.Timer(0.3, server.start).start()
        feed(sink, camera, 10, 10)  # some of them are sent to a server that is gone
        seen = 20
        while len(server.lines) < 5 or server.process.poll() is not None:
            assert seen < 300, "it does not connect again"
            feed(sink, camera, seen, 1)
            seen += 1
    first = numbers([server.lines[0][3]])[0]
    assert (seen - 1 - first) % 20 < 15, "the newest frame, and no old ones after the outage"
    meta = sink.to_meta()
    assert meta["connections"] == 2
    assert meta["sent"] + meta["dropped"] == seen
    assert meta["dropped"] >= 10
    assert "connecting again, for 20 s at most" in caplog.text
    assert "connected again, after " in caplog.text


def test_a_live_run_that_ends_in_an_outage_ends_at_once(
    recorder: Callable[..., Recorder], camera: Callable[[int], Result]
) -> None:
    server = recorder()
    with StreamSink(server.url, live=True, timeout=3) as sink:
        feed(sink, camera, 0, 5)
        server.kill()
        assert feed(sink, camera, 5, 40) < 1.5, "attempts are refused at once, and the run does not wait during pauses"
        begin = time.perf_counter()
    assert time.perf_counter() - begin < 0.1
    meta = sink.to_meta()
    assert meta["connections"] == 1
    assert meta["dropped"] >= 35


def test_a_server_that_hangs_is_left(recorder: Callable[..., Recorder], camera: Callable[[int], Result]) -> None:
    """A stopped server still has the connection, and accepts a new one that it does not answer."""
    server = recorder()
    noise = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)  # soon fills the buffer of the system
    result = camera(0)
    with (
        pytest.raises(UserError, match=r"no connection for 3 s, the last reason: no answer within 2 s"),
        StreamSink(server.url, live=True, timeout=2, patience=3, crf=0) as sink,
    ):
        for index in range(3000):
            if index == 2:
                server.process.send_signal(signal.SIGSTOP)
            rolled = Picture.of_bgr(np.roll(noise, 7 * index, axis=1))
            sink.write(replace(result, index=index, picture=rolled, arrived=time.perf_counter()))
            time.sleep(0.005)


def test_no_connection_does_not_hold_up_a_live_run(
    labels: LabelSpec, engine: Any, camera: Callable[[int], Result]
) -> None:
    """The server accepts and never answers: every frame is segmented anyway, and the run ends quickly."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink = StreamSink(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/live", live=True, timeout=60)
        source = Bars(200, live=True, pause=0.01)
        gaps: list[float] = []
        over = threading.Event()

        def beat() -> None:
            last = time.perf_counter()
            while not over.wait(0.005):
                gaps.append(time.perf_counter() - last)
                last = time.perf_counter()

        threading.Thread(target=beat, daemon=True).start()
        threading.Timer(1.5, os.kill, [os.getpid(), signal.SIGINT]).start()
        begin = time.perf_counter()
        summary = segment(source, [engine], labels=labels, sinks=[sink], overlay=Overlay(labels))
        over.set()
    assert summary.interrupted
    assert summary.frames > 80
    assert time.perf_counter() - begin < 2.5, "Ctrl-C does not wait for the server"
    assert max(gaps) < 0.3, "no thread is blocked while FFmpeg connects"
    assert sink.to_meta()["sent"] == 0
    assert sink.to_meta()["dropped"] > 0


def test_a_file_waits_for_its_server(
    recorder: Callable[..., Recorder], make_result: Callable[..., Result], caplog: pytest.LogCaptureFixture
) -> None:
    server = recorder()
    seen = []
    with StreamSink(server.url, live=False, timeout=3, patience=20) as sink:
        for index in range(20):
            sink.write(make_result(index, picture=grey(16 + 10 * index)))
            if index == 9:
                until(lambda: len(server.lines) == 10)
                seen = server.lines
                server.kill()
                server.start()
        until(lambda: len(server.lines) >= 6)
    sent = numbers([line[3] for line in [*seen, *server.lines]])
    assert sent == sorted(set(sent))
    assert sent[:10] == list(range(10))
    assert len(sent) >= 16, "only data in transit are lost"
    assert sink.to_meta()["connections"] == 2


def test_first_connection_must_succeed(camera: Callable[[int], Result]) -> None:
    for scheme in ("rtsp", "rtmp"):
        with (
            pytest.raises(UserError, match=r"cannot be opened \(Connection refused\); check the address") as caught,
            StreamSink(f"{scheme}://me:s3cret@127.0.0.1:{free_port()}/live/x", live=True) as sink,
        ):
            sink.write(camera(0))
        assert "s3cret" not in str(caught.value)


def test_ctrl_c_does_not_wait_for_a_server_that_hangs(
    recorder: Callable[..., Recorder], camera: Callable[[int], Result], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr("pipeline.video.sinks.stream._LEAVE_S", 0.4)
    server = recorder()
    noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    pictures = [Picture.of_bgr(np.roll(noise, 7 * index, axis=1)) for index in range(4)]  # all packets are large
    result = replace(camera(0), picture=pictures[0])
    with StreamSink(server.url, live=False, fps=1000, timeout=60, crf=0) as sink:
        sink.write(result)
        server.process.send_signal(signal.SIGSTOP)
        threading.Timer(0.5, sink.hurry).start()
        begin = time.perf_counter()
        for index in range(1, 200):
            sink.write(replace(result, index=index, timestamp=index / 1000, picture=pictures[index % 4]))
        assert 0.4 < time.perf_counter() - begin < 5
    assert sink.to_meta()["dropped"] > 50
    assert "accepts no more data" in caplog.text
