"""Video through a named pipe and standard input: read once, without a lost frame, and with limited waits."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.video.sources import open_source
from tests.video.fakes import quarters

av = pytest.importorskip("av")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")


@pytest.fixture
def send(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Writes bytes into a new named pipe from a thread; returns the pipe."""
    threads: list[threading.Thread] = []

    def begin(data: bytes, *, after: float = 0.0, name: str = "live.ts") -> Path:
        path = tmp_path / "pipes" / name
        path.parent.mkdir(exist_ok=True)
        os.mkfifo(path)

        def write() -> None:
            time.sleep(after)
            try:
                with path.open("wb") as file:
                    file.write(data)
            except BrokenPipeError:
                pass

        threads.append(threading.Thread(target=write, daemon=True))
        threads[-1].start()
        return path

    yield begin
    for thread in threads:
        thread.join(2)


def test_a_program_with_many_open_files_reads_a_pipe(
    make_video: Callable[..., Path], send: Callable[..., Path]
) -> None:
    """select() takes no descriptor above 1023."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] != resource.RLIM_INFINITY and limits[1] < 1200:
        pytest.skip(f"a program may open {limits[1]} files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 1200), limits[1]))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1024)]
    try:
        source = open_source(str(send(make_video("drive.ts", count=30).read_bytes())))
        assert len(list(source.frames())) == 30
        source.close()
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("name", ["drive.ts", "drive.mkv", "drive.avi"])
def test_a_pipe_gives_what_the_file_gives(
    make_video: Callable[..., Path], send: Callable[..., Path], name: str
) -> None:
    video = make_video(name, count=30)
    wanted = [(frame.timestamp, frame.picture.bgr().tobytes()) for frame in open_source(str(video)).frames()]
    assert len(wanted) == 30
    source = open_source(str(send(video.read_bytes(), after=0.1, name="live.anything")))
    assert (source.is_video, source.live, source.waits, source.stem) == (True, False, True, "live")
    received = list(source.frames())
    source.close()
    assert [frame.picture.bgr().tobytes() for frame in received] == [data for _, data in wanted]
    assert [frame.timestamp for frame in received] == pytest.approx([time for time, _ in wanted])


def test_sound_of_a_pipe_has_a_warning(
    send: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "sound.ts"
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=25), container.add_stream("aac", rate=48_000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for index in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(quarters(index), format="bgr24")))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 19_200), np.int16), format="s16", layout="mono")
        silence.sample_rate = 48_000
        container.mux(audio.encode(silence))
        container.mux(audio.encode(None))
        container.mux(video.encode(None))
    assert open_source(str(path)).sound is not None
    source = open_source(str(send(path.read_bytes())))
    assert source.sound is None
    assert len(list(source.frames())) == 10
    source.close()
    assert (
        "live.ts: its sound is not carried over, as a pipe is read once; --audio copies it from a file" in caplog.text
    )


def test_start_of_a_pipe(make_video: Callable[..., Path], send: Callable[..., Path]) -> None:
    source = open_source(str(send(make_video("drive.ts", count=30).read_bytes())))
    received = list(source.frames(start=0.8))
    assert len(received) == 10
    with pytest.raises(UserError, match="is a pipe and was read already"):
        list(source.frames())
    source.close()


def test_standard_input(make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    video = make_video("drive.ts", count=20)
    with subprocess.Popen(["cat", str(video)], stdout=subprocess.PIPE) as cat:
        try:
            monkeypatch.setattr(sys, "stdin", cat.stdout)
            monkeypatch.setattr(cat.stdout, "isatty", lambda: False, raising=False)
            source = open_source("-")
            assert (source.name, source.stem) == ("standard input", "stdin")
            assert len(list(source.frames())) == 20
            source.close()
        finally:
            cat.kill()


def test_a_terminal_is_no_video(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(UserError, match=r"-: standard input is no pipe; send a video into it: cat drive\.ts \|"):
        open_source("-")


def test_a_pipe_without_a_writer_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "empty.ts")
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"empty\.ts: nothing came through this pipe for 0\.3 s; start what writes"):
        open_source(str(tmp_path / "empty.ts"), patience=0.3)
    assert time.monotonic() - begin < 1.5


def test_a_writer_that_stalls_is_an_error(make_video: Callable[..., Path], tmp_path: Path) -> None:
    data = make_video("drive.ts", count=200).read_bytes()
    os.mkfifo(tmp_path / "stalls.ts")
    opened: list[Any] = []

    def write() -> None:
        file = (tmp_path / "stalls.ts").open("wb", buffering=0)
        opened.append(file)
        file.write(data[: len(data) // 2])

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    source = open_source(str(tmp_path / "stalls.ts"), patience=0.4)
    with pytest.raises(UserError, match=r"nothing came through this pipe for 0\.4 s"):
        list(source.frames())
    source.close()
    thread.join(2)
    opened[0].close()


def test_stop_ends_a_read_that_waits(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    data = make_video("drive.ts", count=200).read_bytes()
    os.mkfifo(tmp_path / "stalls.ts")
    opened: list[Any] = []

    def write() -> None:
        opened.append((tmp_path / "stalls.ts").open("wb", buffering=0))
        opened[0].write(data[: len(data) // 2])

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    source = open_source(str(tmp_path / "stalls.ts"))
    threading.Timer(0.3, source.stop).start()
    begin = time.monotonic()
    assert list(source.frames())
    assert time.monotonic() - begin < 2
    source.close()
    thread.join(2)
    opened[0].close()


@pytest.mark.parametrize("data", [b"", b"no video at all\n" * 1000, b"ffconcat version 1.0\nfile /etc/hostname\n"])
def test_a_pipe_without_a_video(send: Callable[..., Path], data: bytes) -> None:
    with pytest.raises(UserError, match=r"live\.ts: not a readable video \(.*MPEG-TS, Matroska or an MP4"):
        open_source(str(send(data)), patience=2)


def test_an_index_at_the_end_is_an_error(make_video: Callable[..., Path], send: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"live\.ts: not .*an MP4 with its index in front, or name the file itself"):
        noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)  # does not fit into one buffer
        open_source(str(send(make_video("drive.mp4", image=noise).read_bytes())), patience=2)


def test_ctrl_c_while_nothing_comes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "empty.ts")
    program = (
        "import os, signal, sys, threading\n"
        "from pipeline.errors import command\n"
        "from pipeline.video.sources import open_source\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "sys.exit(command(lambda: open_source('empty.ts') and None)())\n"
    )
    root = str(Path(__file__).parents[2])
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": root},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.startswith("interrupted: ")
    assert ended.stderr.count("\n") == 1
