from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.video.sources import AvVideoSource, CvVideoSource, open_source


@pytest.fixture(params=["av", "cv2"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, make_video: Callable[..., Path]) -> str:
    """Both readers. The video is made before PyAV disappears: make_video holds its own reference."""
    if request.param == "cv2":
        monkeypatch.setitem(sys.modules, "av", None)
    return str(request.param)


def test_video(reader: str, make_video: Callable[..., Path], frame: Array) -> None:
    source = open_source(make_video(count=8))
    assert isinstance(source, AvVideoSource if reader == "av" else CvVideoSource)
    assert (source.is_video, source.fps, source.count, source.size) == (True, 25, 8, (48, 64))
    frames = list(source)
    assert [f.name for f in frames] == [f"drive-{i:06d}" for i in range(8)]
    if reader == "av":
        assert [f.timestamp for f in frames] == pytest.approx([i / 25 for i in range(8)])
    else:
        assert {f.timestamp for f in frames} == {None}
    first = frames[0].image
    assert first.shape == frame.shape
    assert first.dtype == np.uint8
    assert abs(first.astype(int) - frame).mean() < 6
    assert len(list(source)) == 8, "a source can be iterated again"


def test_variable_frame_rate_keeps_times(make_video: Callable[..., Path]) -> None:
    times = [0.0, 0.04, 0.5, 0.52, 2.0]
    source = open_source(make_video(count=5, times=times))
    assert [f.timestamp for f in source] == pytest.approx(times, abs=2e-3)


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotation_is_applied_by_both_readers(
    rotation: int, make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32] = 255  # top left
    path = make_video(count=3, rotation=rotation, image=image)
    upright = np.rot90(image, rotation // 90)
    with_av = open_source(path)
    monkeypatch.setitem(sys.modules, "av", None)
    with_cv2 = open_source(path)
    for source in (with_av, with_cv2):
        first = next(iter(source)).image
        assert source.size == upright.shape[:2]
        assert abs(first.astype(int) - upright).mean() < 6


def test_images_in_name_order(folder: Path) -> None:
    source = open_source(folder)
    assert (source.is_video, source.fps, source.count, source.size) == (False, None, 3, (48, 64))
    assert [(f.name, f.timestamp) for f in source] == [("a", None), ("b", None), ("c", None)]


def test_one_image(folder: Path, frame: Array) -> None:
    source = open_source(folder / "a.png")
    assert (source.count, source.size, source.is_video) == (1, (48, 64), False)
    assert np.array_equal(next(iter(source)).image, frame)


def test_no_such_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.mp4: no such file or folder; give"):
        open_source(tmp_path / "gone.mp4")


@pytest.mark.parametrize("name", ["notes.txt", "bare"])
def test_unsupported_suffix(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("FFmpeg would play this as terminal art\n" * 50)
    with pytest.raises(UserError, match=r"neither an image .* nor a video .*ffmpeg -i .* -c:v libx264 out\.mp4"):
        open_source(path)


@pytest.mark.parametrize("content", [b"", b"not a video" * 100])
def test_not_a_video(reader: str, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.mp4: not a readable video.*ffmpeg -i"):
        open_source(path)


def test_truncated_video(reader: str, make_video: Callable[..., Path]) -> None:
    path = make_video()
    path.write_bytes(path.read_bytes()[:400])  # the index lies at the end
    with pytest.raises(UserError, match=r"not a readable video|can be decoded"):
        open_source(path)


def test_video_without_decodable_frames(reader: str, make_video: Callable[..., Path]) -> None:
    path = make_video(count=4)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    assert start < end, "the index follows the frames"
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    with pytest.raises(UserError, match="not one frame of this video can be decoded; convert it"):
        open_source(path)


def test_damage_is_skipped_and_said(make_video: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    path = make_video(count=200)
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    third = (end - start) // 3
    data[start + third : end - third] = b"\xff" * (end - start - 2 * third)
    path.write_bytes(data)
    frames = list(open_source(path))
    assert 20 <= len(frames) < 200
    assert re.search(r"\d+ damaged packets were skipped; \d+ frames were read", caplog.text)


def test_audio_only(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4410), np.float32), format="fltp", layout="mono")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(UserError, match=r"sound\.mp4: holds no video stream"):
        open_source(path)


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="no images in this folder"):
        open_source(tmp_path)


def test_unreadable_image_is_named(folder: Path) -> None:
    (folder / "b.JPG").write_bytes(b"broken")
    source = open_source(folder)
    with pytest.raises(UserError, match=r"b\.JPG: not a readable image"):
        list(source)


def test_same_stem_twice(folder: Path) -> None:
    cv2.imwrite(str(folder / "a.bmp"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match=r"results of a\.bmp and a\.png would share a name"):
        open_source(folder)


def test_real_drive(real_data: Path) -> None:
    source = open_source(real_data / "video" / "solidWhiteRight.mp4")
    assert (source.fps, source.count, source.size) == (25, 221, (540, 960))
    times = [f.timestamp for f in source]
    assert len(times) == 221
    if isinstance(source, AvVideoSource):
        assert times == pytest.approx([i / 25 for i in range(221)])
