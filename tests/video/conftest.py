"""Real files, made by the libraries that others would make them with."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import pytest

from pipeline.frames import Array
from pipeline.labels import LabelSpec
from tests.video.fakes import BrightnessEngine, quarters

collect_ignore = ["rtsp_server.py"]  # a program of another Python


@pytest.fixture
def engine() -> BrightnessEngine:
    return BrightnessEngine()


@pytest.fixture
def labels() -> LabelSpec:
    return LabelSpec(names=("road", "car", "sky", "tree"), palette=((200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 0)))


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, written out of order, in three formats and both cases, beside what is no image."""
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
