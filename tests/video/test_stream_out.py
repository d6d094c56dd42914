"""Overlays as a live stream: real servers and receivers on this machine, outages, pace, and what is refused."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.loop import segment
from pipeline.video.outputs import Outputs
from pipeline.video.overlay import Overlay
from pipeline.video.picture import Picture
from pipeline.video.sinks import Result, StreamSink
from tests.video.fakes import SYSTEM_PYTHON, Bars

av = pytest.importorskip("av", reason="streams are sent with PyAV")
SIZE = (48, 64)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def grey(brightness: int, size: tuple[int, int] = SIZE) -> Picture:
    return Picture.of_bgr(np.full((*size, 3), brightness, np.uint8))


@pytest.fixture
def camera(make_result: Callable[..., Result]) -> Callable[[int], Result]:
    """A result that arrives now, its brightness by its number: 16, 26, 36, ... over and over."""
    return lambda index: make_result(index, picture=grey(16 + 10 * (index % 20)), arrived=time.perf_counter())


def numbers(brightness: list[float]) -> list[int]:
    """Which of 20 pictures each is, from its grey value in 0..255."""
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
        except av.error.FFmpegError as error:  # nothing more came
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
        program = Path(__file__).with_name("rtsp_server.py")
        self.process = subprocess.Popen(
            [SYSTEM_PYTHON, program, str(self.port), "--record", *self.options],
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True).start()

    def _read(self, said: Any, lines: list[list[int]]) -> None:
        for line in said:
            *words, luma = (int(word) for word in line.split()[1:])
            lines.append([*words, round((luma - 16) * 255 / 219)])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def recorder(needs: Callable[[str, str], None]) -> Iterator[Callable[..., Recorder]]:
    needs("gi", "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-ugly gstreamer1.0-libav")
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
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def feed(sink: StreamSink, camera: Callable[[int], Result], first: int, count: int, *, pause: float = 0.03) -> float:
    """Write so many frames; the longest time that one took."""
    longest = 0.0
    for index in range(first, first + count):
        begin = time.perf_counter()
        sink.write(camera(index))
        longest = max(longest, time.perf_counter() - begin)
        time.sleep(pause)
    return longest


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
    for url, said in (
        (server.url.replace("//", "//admin:wr0ng@"), r"401 Unauthorized.*\); check user and password"),
        (server.url.replace("//", "//admin:se%25cret@") + "/gone", r"404 Not Found\); check the path"),
    ):
        with pytest.raises(UserError, match=said) as caught, StreamSink(url, live=True, timeout=3) as refused:
            refused.write(camera(0))
        assert "wr0ng" not in str(caught.value)
        assert "cret" not in str(caught.value)


def test_a_server_that_comes_back(
    recorder: Callable[..., Recorder], camera: Callable[[int], Result], caplog: pytest.LogCaptureFixture
) -> None:
    server = recorder()
    with StreamSink(server.url, live=True, timeout=3, patience=20) as sink:
        feed(sink, camera, 0, 10)
        until(lambda: len(server.lines) == 10)
        server.kill()
        threading.Timer(0.3, server.start).start()
        feed(sink, camera, 10, 10)  # some of them on the way to a server that is gone
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
        assert feed(sink, camera, 5, 40) < 1.5, "attempts are refused at once, and pauses are not waited for"
        begin = time.perf_counter()
    assert time.perf_counter() - begin < 0.1
    meta = sink.to_meta()
    assert meta["connections"] == 1
    assert meta["dropped"] >= 35


def test_a_server_that_hangs_is_left(recorder: Callable[..., Recorder], camera: Callable[[int], Result]) -> None:
    """A stopped server still has the connection, and accepts a new one that it does not answer."""
    server = recorder()
    noise = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)  # soon fills what the system keeps
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
    """The server accepts and says nothing: the run goes on, every frame is segmented, and the end is quick."""
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
    assert max(gaps) < 0.3, "no thread stands still while FFmpeg connects"
    assert sink.to_meta()["sent"] == 0
    assert sink.to_meta()["dropped"] > 0


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
    assert len(sent) >= 16, "no more is lost than what was on its way"
    assert sink.to_meta()["connections"] == 2


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
    result = replace(camera(0), picture=Picture.of_bgr(noise))
    with StreamSink(server.url, live=False, fps=1000, timeout=60, crf=0) as sink:
        sink.write(result)
        server.process.send_signal(signal.SIGSTOP)
        threading.Timer(0.5, sink.hurry).start()
        begin = time.perf_counter()
        for index in range(1, 200):
            sink.write(replace(result, index=index, timestamp=index / 1000))
        assert 0.4 < time.perf_counter() - begin < 5
    assert sink.to_meta()["dropped"] > 50
    assert "takes nothing any more" in caplog.text


def test_the_source_is_no_target(labels: LabelSpec) -> None:
    source = Bars(2, live=True)
    source.name = "udp://127.0.0.1:9"
    with pytest.raises(UserError, match=r"udp://127\.0\.0\.1:9: is the source, which would take its own overlay"):
        Outputs(stream="udp://me:s3cret@127.0.0.1:9").sinks(source, labels=labels, engine="e")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("rstp://me:s3cret@host/x", r"rstp://host/x: nothing can be sent to rstp://; did you mean 'rtsp'\?"),
        ("http://me:s3cret@host/x", r"nothing can be sent to http://; allowed: rtsp://, .* or a path"),
        ("udp://host", "udp://host: the port is missing; write udp://HOST:PORT"),
        ("rtsp://me:s3/cret@:99999/x", "not an address; write rtsp://HOST:PORT/PATH; in a password"),
        ("rtsp:/host/x", r"rtsp:\.\.\.: not an address; write rtsp://HOST:PORT/PATH"),
        ("rtmp:///live", "rtmp:///live: not an address"),
    ],
)
def test_refused_addresses(address: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        StreamSink(address, live=True)
    assert "s3" not in str(caught.value)
    assert "cret" not in str(caught.value)


def test_what_this_ffmpeg_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(url: str, **options: Any) -> Any:
        assert options["options"] == {"protocol_whitelist": "none"}
        raise av.error.ProtocolNotFoundError(0, "", url)

    with monkeypatch.context() as changed:
        changed.setattr(av, "open", unknown)
        with pytest.raises(UserError, match="srt://host:1: the FFmpeg of this PyAV does not know srt://; use another"):
            StreamSink("srt://host:1", live=True)

    def without(name: str, mode: str | None = None) -> Any:
        raise ValueError(name)

    monkeypatch.setattr(av.format, "ContainerFormat", without)
    with pytest.raises(UserError, match="the FFmpeg of this PyAV has no muxer 'rtsp'; use the wheel"):
        StreamSink("rtsp://host/x", live=True)
