"""Real files, written by the usual libraries."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest

from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.video import command
from pipeline.video.drawing.picture import Box, Picture
from pipeline.video.sinks import PageSettings, PageSink, Result
from pipeline.video.sinks.tiles import SharedPage, TileSink
from tests.video import system_python
from tests.video.fakes import SIZE, BrightnessEngine, quarters

collect_ignore = ["rtsp_server.py"]  # a program of another Python


@pytest.fixture
def engine() -> BrightnessEngine:
    return BrightnessEngine()


@pytest.fixture
def labels() -> LabelSpec:
    return LabelSpec(names=("road", "car", "sky", "tree"), palette=((200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 0)))


@pytest.fixture
def make_result() -> Callable[..., Result]:
    """A result of a grey picture (48, 64); ids are half 0, a quarter 1, an eighth 2, an eighth 255, unless options
    change it."""

    def make(index: int = 0, **changes: object) -> Result:
        label_map = np.array([[0, 0, 0, 0, 1, 1, 2, 255]], np.uint8)
        facts: dict[str, object] = {
            "index": index,
            "name": f"{index:06d}",
            "timestamp": index / 25,
            "arrived": time.perf_counter(),
            "size": SIZE,
            "box": Box(0, 0, *SIZE),
            "label_map": label_map,
            "pixels": np.bincount(label_map.ravel(), minlength=256),
            "infer_ms": 4.0,
            "dropped": 0,
            "picture": Picture.of_bgr(np.full((*SIZE, 3), 128, np.uint8)),
        }
        return Result(**{**facts, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def lacks() -> Callable[[str], NoReturn]:
    """``lacks(reason)``: skips if this machine lacks something; fails if nothing may be skipped, like real_data."""

    def say(reason: str) -> NoReturn:
        if os.environ.get("SEGPRESS_REQUIRE_TOOLS"):
            pytest.fail(reason)
        pytest.skip(reason)

    return say


@pytest.fixture(scope="session")
def needs(lacks: Callable[[str], NoReturn]) -> Callable[..., None]:
    """``needs(packages, argument, ...)``: see ``lacks`` if the system's Python fails with these arguments.

    It runs Python, because a module that exists may lack a library that it loads.
    """

    def check(packages: str, *arguments: object) -> None:
        if reason := system_python.missing(*arguments):
            lacks(f"{system_python.SYSTEM_PYTHON}: {reason}; apt-get install {packages}")

    return check


@pytest.fixture(scope="session")
def program(lacks: Callable[[str], NoReturn]) -> Callable[..., str]:
    """``program(name, ...)``: path of the first of these programs that exists; if none does, see ``lacks``."""

    def find(*names: str) -> str:
        return next(filter(None, map(shutil.which, names)), None) or lacks(f"needs {' or '.join(names)}, a program")

    return find


@pytest.fixture
def serve(labels: LabelSpec) -> Iterator[Callable[..., PageSink]]:
    """Starts a page on a free port; it is left and closed at the end unless the test did so."""
    started: list[PageSink] = []

    def start(host: str = "127.0.0.1", port: int = 0, *, page: PageSettings | None = None, **options: Any) -> PageSink:
        sink = PageSink(page or PageSettings(labels, "drive.mp4"), host=host, port=port, **options)
        sink.__enter__()
        started.append(sink)
        return sink

    yield start
    for sink in started:
        sink.__exit__(None, None, None)
        sink.close()


@pytest.fixture
def frame() -> Array:
    return quarters()


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``name`` with ``count`` frames of moving bars at the given times (in seconds; default: steps of 1/25)."""
    av = pytest.importorskip("av", reason="PyAV makes the test videos")

    def make(
        name: str = "drive.mp4",
        *,
        count: int = 8,
        times: list[float] | None = None,
        rotation: int = 0,
        image: Array | None = None,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            codec = "mpeg4" if path.suffix == ".avi" else "libx264"
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width = (quarters() if image is None else image).shape[:2]
            stream.pix_fmt = "yuv420p"
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                stream.set_display_rotation(rotation)
            for index in range(count):
                picture = av.VideoFrame.from_ndarray(quarters(index) if image is None else image, format="bgr24")
                if times is not None:
                    picture.time_base, picture.pts = Fraction(1, 1000), round(times[index] * 1000)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        return path

    return make


@pytest.fixture(params=["av", "cv2"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, make_video: Callable[..., Path]) -> str:
    """Both readers. PyAV disappears after make_video has its own reference."""
    if request.param == "cv2":
        monkeypatch.setitem(sys.modules, "av", None)
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, written out of order, in three formats and both cases, beside a file that is not an image."""
    path = tmp_path / "frames"
    path.mkdir()
    for name, index in (("c.BMP", 2), ("a.png", 0), ("b.JPG", 1)):
        done, data = cv2.imencode(Path(name).suffix.lower(), quarters(index))
        assert done
        (path / name).write_bytes(data.tobytes())
    (path / "notes.txt").write_text("no image")
    (path / "._a.png").write_text("left by macOS")
    (path / "more.png").mkdir()
    return path


@pytest.fixture
def share(labels: LabelSpec) -> Iterator[Callable[..., tuple[SharedPage, list[TileSink]]]]:
    """Starts a page for sources of these names, and their sinks; all are left at the end unless the test did so."""
    started: list[tuple[SharedPage, list[TileSink]]] = []

    def start(*names: str, host: str = "127.0.0.1", **options: Any) -> tuple[SharedPage, list[TileSink]]:
        page = SharedPage(host, 0, **options)
        sinks = [page.sink(name, PageSettings(labels, f"{name}.mp4", engine="kd/int8")) for name in names]
        page.__enter__()
        started.append((page, sinks))
        for sink in sinks:
            sink.__enter__()
        return page, sinks

    yield start
    for page, sinks in started:
        for sink in sinks:
            if not sink._over.is_set():
                sink.__exit__(None, None, None)
        page.close()


@pytest.fixture
def infer(engine: Any, labels: LabelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Calls main() with arguments, from another working directory."""
    pytest.importorskip("av", reason="the default output is H.264")
    spec = importlib.util.spec_from_file_location("infer_stage", Path(__file__).parents[2] / "stages/infer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    meta = {"runtime": "onnxruntime", "runtime_options": {}}
    facts = SimpleNamespace(labels=labels, hash="e", meta=meta, path=Path("engine"))
    monkeypatch.setattr(command, "open_engines", lambda path, **options: ([engine], facts))

    def call(*args: object) -> int:
        monkeypatch.setattr(sys, "argv", ["infer.py", "engine", *map(str, args)])
        return int(module.main())

    return call


@pytest.fixture
def ctrl_c(monkeypatch: pytest.MonkeyPatch, engine: Any) -> Callable[[int], None]:
    """Sends SIGINT while the engine runs on the frame after ``frames`` frames."""

    def at(frames: int) -> None:
        run = engine.run

        def interrupting(given: Any) -> Any:
            result = run(given)
            if engine.calls == frames + 1:  # one is the warm-up
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)
            return result

        monkeypatch.setattr(engine, "run", interrupting)

    return at


@pytest.fixture
def no_thread_stays() -> Iterator[None]:
    """Every thread that a test starts has ended with it."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(2)
    assert not [thread.name for thread in left if thread.is_alive()]
