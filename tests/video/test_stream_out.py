"""Overlays as a live stream: real servers and receivers on this machine, pace, and refusals."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.outputs import Outputs
from pipeline.video.sinks import Result, StreamSink
from tests.video import receivers
from tests.video.fakes import Bars, grey
from tests.video.receivers import Receiver, Recorder, feed, free_port, numbers, until

camera = receivers.camera  # the fixture
recorder = receivers.recorder  # the fixture


def test_udp(camera: Callable[[int], Result]) -> None:
    receiver = Receiver(f"udp://127.0.0.1:{(port := free_port(socket.SOCK_DGRAM))}")
    time.sleep(0.2)
    with StreamSink(f"udp://127.0.0.1:{port}", live=True) as sink:
        assert not sink.patient
        feed(sink, camera, 0, 50)
    until(lambda: len(receiver.frames) >= 45)
    times = [seconds for seconds, _ in receiver.frames]
    assert numbers([luma for _, luma in receiver.frames])[:20] == [n % 20 for n in range(20)]
    assert times == sorted(set(times))
    assert times[40] - times[10] == pytest.approx(30 * 0.031, abs=0.25), "the times are those of arrival"
    assert receiver.keys >= 2, "a key frame every second"
    assert sink.to_meta() == {"to": f"udp://127.0.0.1:{port}", "sent": 50, "dropped": 0, "connections": 1}


def test_rtmp(camera: Callable[[int], Result]) -> None:
    address = f"rtmp://127.0.0.1:{free_port()}/live/x"
    receiver = Receiver(address, listen="1")
    time.sleep(0.3)
    with StreamSink(address, live=True) as sink:
        feed(sink, camera, 0, 40)
    receiver.thread.join(5)
    assert numbers([luma for _, luma in receiver.frames]) == [n % 20 for n in range(40)]


def test_rtsp_record(recorder: Callable[..., Recorder], camera: Callable[[int], Result]) -> None:
    server = recorder("--user", "admin:se%cret")
    with StreamSink(server.url.replace("//", "//admin:se%25cret@"), live=True, timeout=3) as sink:
        feed(sink, camera, 0, 40)
        until(lambda: len(server.lines) == 40)
    assert [line[1:3] for line in server.lines] == [[64, 48]] * 40
    assert numbers([line[3] for line in server.lines]) == [n % 20 for n in range(40)]
    assert sink.describe() == f"sent to {server.url}: 40 frames, 0 dropped"
    for url, message in (
        (server.url.replace("//", "//admin:wr0ng@"), r"401 Unauthorized.*\); check user and password"),
        (server.url.replace("//", "//admin:se%25cret@") + "/gone", r"404 Not Found\); check the path"),
    ):
        with pytest.raises(UserError, match=message) as caught, StreamSink(url, live=True, timeout=3) as refused:
            refused.write(camera(0))
        assert "wr0ng" not in str(caught.value)
        assert "cret" not in str(caught.value)


def test_a_file_is_sent_in_real_time(make_result: Callable[..., Result]) -> None:
    address = f"rtmp://127.0.0.1:{free_port()}/live/x"
    receiver = Receiver(address, listen="1")
    time.sleep(0.3)
    times = [0.0, 0.1, 0.2, 900.0, 900.1, 0.3, 0.4]  # a clock that jumps on, and back
    with StreamSink(address, live=False, fps=10) as sink:
        assert sink.patient
        sink.write(make_result(0, timestamp=times[0], picture=grey(16)))
        begin = time.perf_counter()
        for index, timestamp in enumerate(times[1:], 1):
            sink.write(make_result(index, timestamp=timestamp, picture=grey(16 + 10 * index)))
        assert time.perf_counter() - begin == pytest.approx(0.6, abs=0.1)
    receiver.thread.join(5)
    seconds = [seconds - receiver.frames[0][0] for seconds, _ in receiver.frames]
    assert seconds == pytest.approx([index / 10 for index in range(7)], abs=2e-3)


def test_no_process_shows_the_password(camera: Callable[[int], Result]) -> None:
    with StreamSink(f"udp://me:s3cret@127.0.0.1:{free_port(socket.SOCK_DGRAM)}", live=True) as sink:
        sink.write(camera(0))
        shown = [
            path.read_bytes()
            for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            for path in (Path(f"/proc/{child}/cmdline"), Path(f"/proc/{child}/environ"))
        ]
    assert any(b"_sender.py" in text for text in shown)
    assert not any(b"s3cret" in text for text in shown)


def test_the_source_is_no_target(labels: LabelSpec) -> None:
    source = Bars(2, live=True)
    source.name = "udp://127.0.0.1:9"
    with pytest.raises(UserError, match=r"udp://127\.0\.0\.1:9: is the source, which would take its own overlay"):
        Outputs(stream="udp://me:s3cret@127.0.0.1:9").sinks(source, labels=labels, engine="e")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("rstp://me:s3cret@host/x", r"rstp://host/x: nothing can be sent to rstp://; did you mean 'rtsp'\?"),
        ("http://me:s3cret@host/x", r"nothing can be sent to http://; allowed: rtsp://, .* or a path"),
        ("udp://host", "udp://host: the port is missing; write udp://HOST:PORT"),
        ("rtsp://me:s3/cret@:99999/x", "not an address; write rtsp://HOST:PORT/PATH; in a password"),
        ("rtsp:/host/x", r"rtsp:\.\.\.: not an address; write rtsp://HOST:PORT/PATH"),
        ("rtmp:///live", "rtmp:///live: not an address"),
    ],
)
def test_refused_addresses(address: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        StreamSink(address, live=True)
    assert "s3" not in str(caught.value)
    assert "cret" not in str(caught.value)
