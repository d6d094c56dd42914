"""Frame rates of videos, and the pace of images."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.outputs import Outputs
from pipeline.video.sources import open_source
from pipeline.video.sources._timing import rate_of
from tests.video.fakes import Bars
from tests.video.stamped import av, encode, evenly, line_times, overlay_times, times


@pytest.mark.parametrize(("name", "codec"), [("x.h264", "libx264"), ("x.hevc", "libx265"), ("x.m4v", "mpeg4")])
@pytest.mark.parametrize("rate", [60, 30])
def test_streams_without_timestamps_have_the_rate_of_their_codec(
    name: str, codec: str, rate: int, tmp_path: Path
) -> None:
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = encode(tmp_path / name, range(20), codec=codec, unit=Fraction(1, rate), rate=rate, options=options)
    assert open_source(str(path)).fps == rate
    assert times(path) == evenly(20, 1 / rate)


def test_dv_has_its_rate(tmp_path: Path) -> None:
    """Its container has a rate of 60000 fps."""
    path = tmp_path / "x.dv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("dvvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
        for index in range(30):
            image = np.full((576, 720, 3), 8 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
    source = open_source(str(path))
    assert (source.fps, source.count) == (25, 30)
    assert [f.name for f in source.frames(start=1)][:2] == ["x-000025", "x-000026"]


@pytest.mark.parametrize(
    ("own", "mean", "raw", "expected"),
    [
        (60, 25, True, 60),  # .h264
        (25, 60_000, False, 25),  # DV
        (25, 50, False, 25),  # AVI with dropped frames
        (90_000, 15, False, 15),  # a recording with frames only when something moves
        (1000, 1000, False, 1000),  # slow motion
        (None, 24, False, 24),
        (30, None, False, 30),
        (None, None, True, None),
    ],
)
def test_which_rate_counts(own: int | None, mean: int | None, raw: bool, expected: int | None) -> None:
    container = SimpleNamespace(format=SimpleNamespace(flags=0x180 if raw else 0))
    stream = SimpleNamespace(guessed_rate=own and Fraction(own), average_rate=mean and Fraction(mean))
    assert rate_of(container, stream) == expected


def test_a_guessed_rate_has_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = encode(tmp_path / "x.mjpeg", range(5), codec="mjpeg", unit=Fraction(1, 10), rate=10)
    assert times(path) == evenly(5)
    assert "has no frame rate; 25 is assumed; --fps sets it" in caplog.text
    caplog.clear()
    assert times(path, fps=10.0) == evenly(5, 0.1)
    assert not caplog.records


def test_fps_of_the_user_replaces_rate_and_timestamps(reader: str, make_video: Callable[..., Path]) -> None:
    path = str(make_video(count=40))
    source = open_source(path, fps=10.0)
    assert source.fps == 10
    assert [f.timestamp for f in source.frames()] == evenly(40, 0.1)
    late = list(source.frames(start=1.52))
    assert (late[0].name, late[0].timestamp, len(late)) == ("drive-000015", pytest.approx(1.5), 25)


def test_fps_on_the_command_line(infer: Any, make_video: Callable[..., Path]) -> None:
    path = make_video(count=10)
    assert infer(path, "--fps", "30000/1001", "--out", "o.mp4", "--lines", "l.jsonl") == 0
    assert overlay_times("o.mp4") == evenly(10, 1001 / 30000)
    assert line_times("l.jsonl") == evenly(10, 1001 / 30000)
    for wrong in ("0", "-1", "nan", "1001", "x", "1/0"):
        with pytest.raises(SystemExit):
            infer(path, "--fps", wrong)


@pytest.mark.parametrize(("every", "fps", "length"), [(1, 25, 0.12), (3, 25, 0.12), (2, 10, 0.4)])
def test_images_keep_their_pace_with_every(infer: Any, folder: Path, every: int, fps: int, length: float) -> None:
    assert infer(folder, "--every", every, "--fps", fps, "--out", "o.mp4") == 0
    assert overlay_times("o.mp4") == evenly(math.ceil(3 / every), every / fps)
    with av.open("o.mp4") as container:
        assert container.duration / 1e6 == pytest.approx(length)


def test_every_of_images_and_of_a_video_last_equally(
    infer: Any, tmp_path: Path, make_video: Callable[..., Path]
) -> None:
    infer(make_video(count=40), "--out", "frames")
    infer("frames", "--every", 5, "--out", "a.mp4")
    infer(make_video(count=40), "--every", 5, "--out", "b.mp4")
    assert overlay_times("a.mp4") == overlay_times("b.mp4") == evenly(8, 0.2)
    for name in ("a.mp4", "b.mp4"):
        with av.open(name) as container:
            assert container.duration / 1e6 == pytest.approx(1.6)


def test_live_sources_have_no_rate_of_the_user(labels: LabelSpec) -> None:
    with pytest.raises(UserError, match=r"fps 10 cannot be used: frames of a live source have their own times"):
        Outputs(fps=10.0).sinks(Bars(3, live=True), labels=labels, engine="e")
