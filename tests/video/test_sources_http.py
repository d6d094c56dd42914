"""Streams and files of a real HTTP server on this machine."""

from __future__ import annotations

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
from pipeline.video.sources import open_source
from pipeline.video.sources._address import of_url
from pipeline.video.sources._container import Timeouts
from pipeline.video.sources._live import Patience
from pipeline.video.sources.opencv import CvFile
from pipeline.video.sources.stream import open_stream
from pipeline.video.sources.video_file import VideoFile
from tests.video.fakes import take

av = pytest.importorskip("av", reason="streams are read with PyAV")
QUICK = Patience(Timeouts(open=3, read=0.6), total=20, first_wait=0.1, longest_wait=0.4)


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
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_file_on_a_server(http: str, make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow reader gets every frame too, and can start in the middle."""
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
    """A playlist that has ended is a file; frames of a live playlist come at the pace of their times."""
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
    """It ends after 20 frames, and is connected again."""
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
