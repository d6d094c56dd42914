"""Interlaced video: two fields of a frame show two moments, and become one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.frames import Array
from pipeline.video.sources import StreamOptions, open_source

av = pytest.importorskip("av", reason="PyAV makes the test videos")

WIDTH = 96


def moment(time: float, height: int = 64) -> Array:
    """Grey (height, WIDTH): a bright bar that moves by 6 pixels per field, on stripes that do not move."""
    image = np.full((height, WIDTH), 60, np.uint8)
    image[height // 2 :, ::8] = 110
    left = int(6 + 6 * time)
    image[:, left : left + 18] = 210
    return image


def combed(index: int, height: int = 64) -> Array:
    """Frame ``index``: its odd rows (the bottom field) half a frame before its even rows."""
    image = moment(2 * index, height)
    image[::2] = moment(2 * index + 1, height)[::2]
    return image


def clip(path: Path, *, count: int = 6, interlaced: bool = True, height: int = 64) -> Path:
    options = {"crf": "2", "bf": "0"}
    if interlaced:
        options |= {"flags": "+ildct+ilme", "x264-params": "bff=1"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, height, "yuv420p"
        for index in range(count):
            grey = combed(index, height) if interlaced else moment(2 * index, height)
            frame = av.VideoFrame.from_ndarray(np.repeat(grey[..., None], 3, axis=2), format="bgr24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def grey(picture: object) -> Array:
    return picture.bgr()[..., 1].astype(int)  # type: ignore[attr-defined, no-any-return]


def combing(image: Array) -> float:
    """Mean difference of rows from the mean of their neighbours, in the half without stripes."""
    rows = image[: len(image) // 2].astype(float)
    return float(abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean())


@pytest.mark.parametrize("name", ["tv.mp4", "tv.mkv", "tv.ts", "tv.h264"])
def test_becomes_progressive(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = clip(tmp_path / name)
    source = open_source(str(path))
    frames = list(source.frames())
    assert [f.name for f in frames] == [f"tv-{index:06d}" for index in range(6)]
    assert [f.timestamp for f in frames] == pytest.approx([index / 25 for index in range(6)], abs=1e-3)
    for index, frame in enumerate(frames[1:5], 1):
        assert combing(combed(index)) > 8
        assert combing(grey(frame.picture)) < 1.5
        difference = abs(grey(frame.picture) - moment(2 * index))
        assert difference.mean() < 5, "the moment of the first field"
        assert difference[32:, 70:].mean() < 3, "stripes that do not move stay"
    assert caplog.messages == [f"{path}: its frames are interlaced and are deinterlaced; --no-deinterlace keeps them"]
    assert len(list(source.frames())) == 6
    assert len(caplog.messages) == 1


def test_switch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = clip(tmp_path / "tv.mp4")
    frames = list(open_source(str(path), reading=StreamOptions(deinterlace=False)).frames())
    assert len(frames) == 6
    assert abs(grey(frames[2].picture) - combed(2)).mean() < 3
    assert len(caplog.messages) == 1
    assert "interlaced and kept so" in caplog.messages[0]


def test_progressive_video_is_not_touched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = clip(tmp_path / "film.mp4", interlaced=False)
    with av.open(str(path)) as container:
        expected = [np.array(frame.to_ndarray())[:64] for frame in container.decode(video=0)]
    frames = list(open_source(str(path)).frames())
    for frame, luma in zip(frames, expected, strict=True):
        assert np.array_equal(frame.picture.planes[0], luma)
    assert not caplog.messages


@pytest.mark.parametrize("count", [1, 2])
def test_few_frames(tmp_path: Path, count: int) -> None:
    frames = list(open_source(str(clip(tmp_path / "tv.mp4", count=count))).frames())
    assert [f.timestamp for f in frames] == pytest.approx([index / 25 for index in range(count)])


def test_start_gives_the_same_frames(tmp_path: Path) -> None:
    path = str(clip(tmp_path / "tv.mp4"))
    every = {f.name: f.picture for f in open_source(path).frames()}
    some = list(open_source(path).frames(start=0.12))
    assert [f.name for f in some] == ["tv-000003", "tv-000004", "tv-000005"]
    for frame in some:
        assert np.array_equal(frame.picture.bgr(), every[frame.name].bgr())


def test_interlaced_from_some_frame_on_and_of_another_size(tmp_path: Path) -> None:
    """Joined transport streams: no frame is lost or changes its place."""
    clip(tmp_path / "a.ts", interlaced=False, count=4)
    clip(tmp_path / "b.ts", count=5)
    clip(tmp_path / "c.ts", count=5, height=80)
    whole = tmp_path / "joined.ts"
    whole.write_bytes(b"".join((tmp_path / f"{name}.ts").read_bytes() for name in "abc"))
    sizes = [frame.picture.size for frame in open_source(str(whole)).frames()]
    assert sizes == [(64, WIDTH)] * 9 + [(80, WIDTH)] * 5
