"""H.264 files: needs of players, times, colours, sizes, and the file of a run that was killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.video.drawing.picture import Picture, Yuv
from pipeline.video.sinks import H264Sink
from tests.video.fakes import result


def write_h264(path: Path, pictures: Sequence[Array], *, times: Sequence[float | None], fps: float = 25) -> Any:
    av = pytest.importorskip("av")
    with H264Sink(path, fps=fps) as sink:
        for picture, timestamp in zip(pictures, times, strict=True):
            sink.write(result(picture, timestamp=timestamp))
    container = av.open(str(path))
    return container, list(container.decode(video=0))


def test_h264_plays_in_a_browser(tmp_path: Path, frame: Array) -> None:
    path = tmp_path / "out.mp4"
    container, frames = write_h264(path, [frame] * 60, times=[None] * 60)
    stream = container.streams.video[0]
    assert stream.codec_context.name == "h264"
    assert stream.codec_context.pix_fmt == "yuv420p"
    assert (stream.height, stream.width) == frame.shape[:2]
    assert stream.average_rate == 25
    assert (stream.frames, len(frames)) == (60, 60)
    assert float(stream.duration * stream.time_base) == pytest.approx(60 / 25)
    assert [f.time for f in frames] == pytest.approx([i / 25 for i in range(60)])
    assert [i for i, f in enumerate(frames) if f.key_frame] == [0, 50], "one key frame every two seconds"
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index is at the front"
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("size", [(48, 64), (720, 1280)])
def test_h264_keeps_colours(tmp_path: Path, size: tuple[int, int]) -> None:
    red = np.full((*size, 3), (20, 40, 220), np.uint8)
    _, frames = write_h264(tmp_path / "out.mp4", [red] * 3, times=[None] * 3)
    assert frames[0].colorspace == frames[0].color_range == 1  # BT.709, limited
    # OpenCV 5 agrees; OpenCV 4 reads every video as BT.601 and ignores its tags
    assert abs(frames[-1].to_ndarray(format="bgr24").astype(int) - red).mean() < 4


def test_h264_keeps_distances_in_time(tmp_path: Path, frame: Array) -> None:
    times = [1.4, 1.44, 1.9, 1.92, 3.4]  # starts late, as transport streams do; variable rate
    _, frames = write_h264(tmp_path / "out.mp4", [frame] * 5, times=times)
    assert [f.time for f in frames] == pytest.approx([t - 1.4 for t in times], abs=1e-4)


def test_h264_survives_times_that_do_not_rise(tmp_path: Path, frame: Array) -> None:
    _, frames = write_h264(tmp_path / "out.mp4", [frame] * 5, times=[0.0, 0.04, 0.04, 0.02, None])
    times = [f.time for f in frames]
    assert len(times) == 5
    assert times == sorted(set(times))


def test_h264_keeps_a_pause_of_a_camera_and_shortens_one_that_mp4_cannot_store(tmp_path: Path, frame: Array) -> None:
    _, frames = write_h264(tmp_path / "out.mp4", [frame] * 4, times=[0.0, 0.04, 3600.0, 95_443.7])
    assert [f.time for f in frames] == pytest.approx([0.0, 0.04, 3600.0, 3600.04], abs=1e-3)


def test_h264_key_frames_by_time(tmp_path: Path, frame: Array) -> None:
    _, frames = write_h264(tmp_path / "out.mp4", [frame] * 40, times=[index * 0.4 for index in range(40)])
    keys = [f.time for f in frames if f.key_frame]
    assert keys == pytest.approx([2.0 * index for index in range(8)], abs=0.01), "for any frame rate"


@pytest.mark.parametrize("fps", [1e-9, 90_000.0])
def test_h264_impossible_rates(tmp_path: Path, frame: Array, fps: float) -> None:
    _, frames = write_h264(tmp_path / "out.mp4", [frame] * 3, times=[0, 0.04, 0.08], fps=fps)
    assert [f.time for f in frames] == pytest.approx([0, 0.04, 0.08], abs=1e-4)


def test_h264_too_large(tmp_path: Path) -> None:
    pytest.importorskip("av")
    wide = np.zeros((2, 16_386, 3), np.uint8)
    with (
        pytest.raises(UserError, match=r"frames of 16386x2 \(width x height\); H\.264 allows 16384 per side"),
        H264Sink(tmp_path / "out.mp4") as sink,
    ):
        sink.write(result(wide))
    assert not list(tmp_path.iterdir())


def test_h264_fractional_rate(tmp_path: Path, frame: Array) -> None:
    container, _ = write_h264(tmp_path / "out.mp4", [frame] * 30, times=[None] * 30, fps=30000 / 1001)
    assert str(container.streams.video[0].average_rate) == "30000/1001"


@pytest.mark.parametrize(("size", "even"), [((47, 63), (48, 64)), ((48, 63), (48, 64)), ((1, 1), (2, 2))])
def test_h264_pads_odd_sizes(tmp_path: Path, size: tuple[int, int], even: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 200, np.uint8)
    container, frames = write_h264(tmp_path / "out.mp4", [picture] * 2, times=[None] * 2)
    assert (container.streams.video[0].height, container.streams.video[0].width) == even
    assert abs(frames[0].to_ndarray(format="bgr24").astype(int) - 200).max() < 8, "the border repeats the picture"


def test_h264_fits_another_size(tmp_path: Path, frame: Array, caplog: pytest.LogCaptureFixture) -> None:
    av = pytest.importorskip("av")
    with H264Sink(tmp_path / "out.mp4") as sink:
        sink.write(result(frame))
        for _ in range(2):
            sink.write(result(np.full((96, 64, 3), 200, np.uint8), name="tall"))
        sink.write(result(frame))
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = [f.to_ndarray(format="bgr24").astype(int) for f in container.decode(video=0)]
    assert [f.shape for f in frames] == [(48, 64, 3)] * 4
    assert abs(frames[1][:, 20:44] - 200).max() < 12, "all of it, in the middle"
    assert abs(frames[1][:, :12] - 64).max() < 12, "grey bars"
    assert abs(frames[3] - frame).mean() < 6
    assert len(caplog.messages) == 1
    assert "tall is 64x96 (width x height), the frames before it were 64x48" in caplog.messages[0]


@pytest.mark.parametrize("yuv", [Yuv(), Yuv(1, False, 1, 1), Yuv(6, True, 6, 6)])
def test_h264_passes_planes_and_their_meaning_on(tmp_path: Path, yuv: Yuv) -> None:
    av = pytest.importorskip("av")
    random = np.random.default_rng(0)
    smooth = [
        np.asarray(cv2.resize(random.integers(60, 190, (3, 4), np.uint8), (w, h)))
        for h, w in ((48, 64), (24, 32), (24, 32))
    ]
    with H264Sink(tmp_path / "out.mp4", crf=0) as sink:  # lossless
        for _ in range(3):
            sink.write(result(Picture(tuple(smooth), yuv)))
    with av.open(str(tmp_path / "out.mp4")) as container:
        for frame in container.decode(video=0):
            for plane, wanted in zip(frame.planes, smooth, strict=True):
                got = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
                assert np.array_equal(got, wanted)
            got_yuv = Yuv(frame.colorspace, frame.color_range == 2, frame.color_primaries, frame.color_trc)
            assert got_yuv == yuv


def test_h264_presets_and_quality(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"got preset fastest, crf 20; allowed: ultrafast, .*; crf 0 to 51"):
        H264Sink(tmp_path / "out.mp4", preset="fastest")
    with pytest.raises(UserError, match="crf 52"):
        H264Sink(tmp_path / "out.mp4", crf=52)


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[2])
from tests.video.fakes import result
from pipeline.video.sinks import H264Sink
with H264Sink(Path(sys.argv[1]), fps=25) as sink:
    for index in range(10_000):
        sink.write(result(np.full((48, 64, 3), index % 200, np.uint8), timestamp=index / 25))
        if index == 230:
            print("ready", flush=True)
            time.sleep(60)
"""


def test_h264_of_a_killed_process_plays(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", WRITER, str(tmp_path / "out.mp4"), str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
        finally:
            process.kill()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("out.partial-"), "the target was never touched"
    with av.open(str(left)) as container:
        frames = list(container.decode(video=0))
    assert 180 <= len(frames) <= 231, "all but the last fragment of two seconds"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux")
def test_full_disk(tmp_path: Path, frame: Array) -> None:
    pytest.importorskip("av")
    sink = H264Sink(tmp_path / "out.mp4")
    with (
        pytest.raises(UserError, match=r"out\.mp4: cannot be written \(No space left on device\); free the place"),
        sink,
    ):
        sink.place = tmp_path / "full"  # a link, because a failed file may be removed
        sink.place.symlink_to("/dev/full")
        for index in range(2000):
            noise = np.random.default_rng(index).integers(0, 256, frame.shape, np.uint8)
            sink.write(result(noise, timestamp=index / 25))


def test_h264_without_av(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"H\.264 needs PyAV: pip install av; or write masks with --masks DIR"):
        H264Sink(tmp_path / "out.mp4")
