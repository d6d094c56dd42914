"""Streams from real servers on this machine: RTSP and HTTP, and GStreamer pipelines in an OpenCV that has them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.video.sources import Frame, Source, open_source
from pipeline.video.sources._address import of_url
from pipeline.video.sources._container import Timeouts
from pipeline.video.sources._live import Patience
from pipeline.video.sources.opencv import CvFile
from pipeline.video.sources.stream import open_stream
from pipeline.video.sources.video_file import VideoFile

av = pytest.importorskip("av", reason="streams are read with PyAV")
SYSTEM_PYTHON = Path("/usr/bin/python3")
ROOT = Path(__file__).parents[2]
QUICK = Patience(Timeouts(open=3, read=0.6), total=20, first_wait=0.1, longest_wait=0.4)


def needs(modules: str, packages: str) -> None:
    """Skip where the system's Python lacks modules; with SEGPRESS_REQUIRE_TOOLS set that is a failure."""
    found = (
        SYSTEM_PYTHON.exists()
        and not subprocess.run(
            [SYSTEM_PYTHON, "-c", f"import {modules}"], capture_output=True, check=False, env={}
        ).returncode
    )
    if not found:
        reason = f"needs {modules} in {SYSTEM_PYTHON}: apt-get install {packages}"
        if os.environ.get("SEGPRESS_REQUIRE_TOOLS"):
            pytest.fail(reason)
        pytest.skip(reason)


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
            [SYSTEM_PYTHON, Path(__file__).with_name("rtsp_server.py"), str(self.port), *self.options],
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"]},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def pause(self, seconds: float) -> None:
        self.process.send_signal(signal.SIGSTOP)
        threading.Timer(seconds, self.process.send_signal, [signal.SIGCONT]).start()


@pytest.fixture
def rtsp() -> Iterator[Callable[..., Rtsp]]:
    needs("gi", "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-ugly")
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


def take(source: Source, count: int) -> list[Frame]:
    frames = []
    for frame in source.frames():
        frames.append(frame)
        if len(frames) == count:
            break
    return frames


def test_rtsp(rtsp: Callable[..., Rtsp], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    server = rtsp("--user", "admin:se%cret")
    address = server.url.replace("//", "//admin:se%25cret@")
    source = open_source(address)
    assert (source.name, source.live, source.fps) == (server.url, True, 25.0)
    frames = take(source, 30)
    source.close()
    assert {f.picture.size for f in frames} == {(64, 128)}
    assert len(frames[0].picture.planes) == 3
    begin, end = frames[10].timestamp, frames[-1].timestamp  # what waited at first comes at once
    assert begin is not None
    assert end == pytest.approx(begin + 19 / 25, abs=0.4)
    assert sorted(lag(f) for f in frames[10:])[10] < 250
    for url, said in (
        (address.replace("se%25cret", "wr0ng"), r"401 Unauthorized .*; check user and password"),
        (address + "/gone", r"404 Not Found\); check the path"),
        (f"rtsp://admin:wr0ng@127.0.0.1:{free_port()}/", r"Connection refused\); check the address, its port"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            open_source(url)
        assert "wr0ng" not in str(caught.value)
        assert "cret" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "av", None)  # OpenCV reads it, too
    source = open_source(address)
    assert {f.picture.size for f in take(source, 3)} == {(64, 128)}
    source.close()
    with pytest.raises(UserError, match=r"OpenCV cannot open it\); check address, port, user and password"):
        open_source(address.replace("se%25cret", "wr0ng"))
    told = capfd.readouterr()
    assert "wr0ng" not in told.err + told.out
    assert "cret" not in told.err + told.out


def outages(server: Rtsp, source: Source, seconds: float) -> list[Frame]:
    """Frames of a stream that stalls, then vanishes, for so many seconds each, and comes back each time."""
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


class Handler(BaseHTTPRequestHandler):
    """/mjpeg as a camera sends it; /NAME of a folder with ranges; /cut/NAME breaks off; /stall/NAME stops sending."""

    folder: Path

    def do_GET(self) -> None:
        first = self.path.split("?")[0].split("/")[1]
        try:
            self.mjpeg() if first == "mjpeg" else self.file(first)
        except OSError:
            self.close_connection = True

    def mjpeg(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=x")
        self.send_header("Content-Length", "999999999")  # as some cameras do
        self.end_headers()
        for number in range(20):
            data = cv2.imencode(".jpg", np.full((48, 64, 3), 10 * number, np.uint8))[1].tobytes()
            self.wfile.write(b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data))
            self.wfile.write(data + b"\r\n")
            time.sleep(0.03)
        self.close_connection = True

    def file(self, first: str) -> None:
        path = self.folder / Path(self.path.split("?")[0]).name
        if not path.exists():
            return self.send_error(404)
        data = path.read_bytes()
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        middle = len(data) // 2
        if first in ("cut", "stall") and begin < len(data) * 0.9:  # the index at the end is sent
            self.wfile.write(data[begin:middle])
            if first == "stall":
                self.wfile.flush()
                time.sleep(4)
            self.close_connection = True
            return None
        self.wfile.write(data[begin:])
        return None

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def http(tmp_path: Path) -> Iterator[str]:
    handler = type("HandlerHere", (Handler,), {"folder": tmp_path})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_file_on_a_server(http: str, make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame is taken, however slowly, and it can start in the middle."""
    make_video(count=60)
    source = open_source(f"{http}/drive.mp4?token=secret")
    assert isinstance(source, VideoFile)
    assert (source.live, source.count, source.name) == (False, 60, f"{http}/drive.mp4?...")
    assert len(list(source.frames())) == 60
    assert [f.timestamp for f in source.frames(start=2)] == pytest.approx([i / 25 for i in range(50, 60)])
    with pytest.raises(UserError, match=r"404 Not Found\); check the path"):
        open_source(f"{http}/gone.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    source = open_source(f"{http}/drive.mp4")
    assert isinstance(source, CvFile)
    assert len(list(source.frames())) == 60


@pytest.mark.parametrize("ended", [True, False])
def test_playlists(ended: bool, http: str, tmp_path: Path) -> None:
    """One that ended is a file; of one that goes on, frames come at the pace of their times."""
    options = {"hls_time": "1", "hls_list_size": "0"} | ({} if ended else {"hls_flags": "omit_endlist"})
    with av.open(str(tmp_path / "live.m3u8"), "w", format="hls", options=options) as container:
        stream = container.add_stream("libx264", rate=20, options={"g": "20"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(40):
            image = np.full((48, 64, 3), 5 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    source = open_stream(of_url(f"{http}/live.m3u8"), av, patience=QUICK)
    assert source.live != ended
    frames = take(source, 30)
    source.close()
    assert len(frames) == 30
    times = [f.timestamp for f in frames]
    if ended:
        assert times == pytest.approx([i / 20 for i in range(30)])
    else:
        assert times == pytest.approx([i / 20 for i in range(30)], abs=0.2)


def test_file_on_a_server_that_stalls(http: str, tmp_path: Path) -> None:
    path = tmp_path / "drive.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuvj420p"
        for noise in np.random.default_rng(0).integers(0, 256, (60, 120, 160, 3), dtype=np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="bgr24")))
        container.mux(stream.encode(None))
    assert path.stat().st_size > 200_000, "more than FFmpeg reads ahead"
    source = open_source(f"{http}/stall/drive.mkv", open_timeout=1, read_timeout=1)
    with pytest.raises(UserError, match=r"broke off after [1-9]\d* frames \(no answer"):
        list(source.frames())


def test_mjpeg_over_http(http: str) -> None:
    """It ends after 20 frames, and is taken up again."""
    source = open_stream(of_url(f"{http}/mjpeg?user=a&pw=secret"), av, patience=QUICK)
    assert (source.live, source.name) == (True, f"{http}/mjpeg?...")
    frames = take(source, 40)
    source.close()
    first = frames[0].picture
    assert first.yuv is not None
    assert first.yuv.full_range
    greys = [int(f.picture.bgr().mean()) for f in frames]
    drops = [now for before, now in pairwise(greys) if now < before]
    assert len(drops) >= 1, "a new connection begins at black"
    assert max(greys) > 150


READ = """
import json, sys
from pipeline.errors import UserError
from pipeline.video.sources import open_source
for text in sys.argv[1:]:
    told = dict(frames=0)
    try:
        source = open_source(text, open_timeout=5, read_timeout=5)
        for frame in source.frames():
            planes = frame.picture.planes
            told.update(planes=[list(p.shape) for p in planes], bgr=frame.picture.bgr().mean((0, 1)).round().tolist())
            told["frames"] += 1
            if source.live and told["frames"] == 10:
                break
        told.update(live=source.live, name=source.name)
        source.close()
    except UserError as error:
        told.update(error=str(error))
    print("told", json.dumps(told))
"""
RED = "videotestsrc is-live=true pattern=red ! video/x-raw,width=64,height=48,framerate=30/1 ! videoconvert"


def test_gstreamer(make_video: Callable[..., Path]) -> None:
    """With Debian's OpenCV, which has it; no PyAV there."""
    needs("cv2", "python3-opencv gstreamer1.0-plugins-good gstreamer1.0-libav")
    forms = ("BGR", "I420", "BGRx", "GRAY8")
    path = make_video("drive.mkv", count=30)
    pipelines = [
        *(f"{RED} ! video/x-raw,format={form} ! appsink drop=true max-buffers=1" for form in forms),
        f"filesrc location={path} ! matroskademux ! h264parse ! avdec_h264 ! videoconvert ! video/x-raw,format=BGR ! "
        "appsink sync=false",
        "nosuchelement user-pw=secret ! appsink",
    ]
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", READ, *pipelines],
        capture_output=True,
        check=True,
        timeout=60,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
    )
    told = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith(b"told ")]
    bgr, i420, bgrx, grey, file, broken = told
    for got in (bgr, i420, bgrx, grey):
        assert (got.get("live"), got["frames"]) == (True, 10), got
    for got in (bgr, i420, bgrx):
        assert got["bgr"] == pytest.approx([0, 0, 255], abs=3), got
    assert [got["planes"] for got in (bgr, bgrx, grey)] == [[[48, 64, 3]]] * 3
    assert i420["planes"] == [[48, 64], [24, 32], [24, 32]]
    assert grey["bgr"] == pytest.approx([76] * 3, abs=20), "red's luma; which range a converter takes differs"
    assert (file.get("live"), file["frames"]) == (False, 30), file
    assert "cannot be opened (OpenCV cannot open it); OpenCV's lines above say why" in broken["error"]
    assert "secret" not in broken["error"] + done.stderr.decode()
