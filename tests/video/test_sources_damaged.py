"""Damaged video files with both readers: frames or one error."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.video.sources import open_source

av = pytest.importorskip("av", reason="PyAV makes the test videos")


@pytest.mark.parametrize("content", [b"", b"not a video\n" * 100])
def test_not_a_video(reader: str, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.mp4: not a readable video.*ffmpeg -i"):
        open_source(str(path))


def test_a_playlist_by_the_name_of_a_video_opens_no_address(tmp_path: Path) -> None:
    path = tmp_path / "list.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(UserError, match=r"not a readable video|not one frame"):
        open_source(str(path))


def test_index_cut_off(reader: str, make_video: Callable[..., Path]) -> None:
    path = make_video()
    path.write_bytes(path.read_bytes()[:400])  # the index is at the end
    with pytest.raises(UserError, match=r"not a readable video|can be decoded"):
        open_source(str(path))


def test_video_without_decodable_frames(reader: str, make_video: Callable[..., Path]) -> None:
    path = make_video(count=4)
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    assert start < end, "the index follows the frames"
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    with pytest.raises(UserError, match="not one frame of this video can be decoded; convert it"):
        open_source(str(path))


def test_video_of_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "none.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(UserError, match=r"none\.mkv: (not one frame|not a readable)"):
        open_source(str(path))


def test_damage_is_skipped_with_one_warning(make_video: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    path = make_video(count=200)
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    third = (end - start) // 3
    data[start + third : end - third] = b"\xff" * (end - start - 2 * third)
    path.write_bytes(data)
    source = open_source(str(path))
    assert not caplog.records
    frames = list(source.frames())
    assert 20 <= len(frames) < 200
    (record,) = caplog.records
    assert re.search(rf"damaged: {len(frames)} frames were read; [1-9]\d* packets could not be decoded", record.message)


def test_a_file_that_was_cut_off_has_a_warning(
    tmp_path: Path, make_video: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "front.mp4"
    with (
        av.open(str(make_video(count=100))) as source,
        av.open(str(path), "w", options={"movflags": "faststart"}) as container,
    ):
        video = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                container.mux(packet)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    path.write_bytes(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2])
    frames = list(open_source(str(path)).frames())
    assert 10 < len(frames) < 90
    missing = len(data) - path.stat().st_size
    expected = rf"frames were read; .*it was cut off: {missing} bytes or more are missing, its header says 100 frames"
    assert re.search(f"{len(frames)} {expected}", caplog.text)
    caplog.clear()
    source = open_source(str(path))
    rest = list(source.frames(start=0.2))
    assert rest[0].name == frames[5].name
    assert re.search(f"{len(rest)} {expected}", caplog.text)
    assert re.search(f"{len(rest)} {expected}", source.damage)
    with pytest.raises(UserError, match=r"nothing from 3 s on, it ends at .*cut off.*; start earlier"):
        list(source.frames(start=3))


def test_flipped_bytes_give_frames_or_one_error(make_video: Callable[..., Path]) -> None:
    data = make_video(count=12).read_bytes()
    rng = np.random.default_rng(0)
    outcomes = {"frames": 0, "refused": 0}
    path = make_video("flipped.mp4")
    for _ in range(50):
        flipped = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 12)):
            flipped[place] = rng.integers(256)
        path.write_bytes(flipped)
        try:
            frames = list(open_source(str(path)).frames())
            assert frames
            assert all(f.picture.bgr().ndim == 3 for f in frames)
            assert len({f.name for f in frames}) == len(frames)
            outcomes["frames"] += 1
        except UserError as error:
            assert str(error).startswith(f"{path}: ")
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 3, outcomes


def test_audio_only(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4410), np.float32), format="fltp", layout="mono")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(UserError, match=r"sound\.mp4: not a readable video \(holds no video stream\)"):
        open_source(str(path))
