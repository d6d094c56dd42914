from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import Array, read_frame, read_label_map
from pipeline.labels import LabelSpec
from pipeline.video.sinks import CLASSES, H264Sink, ImageFolderSink, ImageSink, MaskSink, Result, Sink


def result(picture: Array, *, name: str = "x", timestamp: float | None = None) -> Result:
    label_map = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    return Result(name, timestamp, (picture.shape[0], picture.shape[1]), label_map, picture)


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
    # OpenCV 5 agrees; OpenCV 4 reads every video as BT.601, whatever it says
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


def test_h264_fractional_rate(tmp_path: Path, frame: Array) -> None:
    container, _ = write_h264(tmp_path / "out.mp4", [frame] * 30, times=[None] * 30, fps=30000 / 1001)
    assert str(container.streams.video[0].average_rate) == "30000/1001"


@pytest.mark.parametrize(("size", "even"), [((47, 63), (48, 64)), ((48, 63), (48, 64)), ((1, 1), (2, 2))])
def test_h264_pads_odd_sizes(tmp_path: Path, size: tuple[int, int], even: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 200, np.uint8)
    container, frames = write_h264(tmp_path / "out.mp4", [picture] * 2, times=[None] * 2)
    assert (container.streams.video[0].height, container.streams.video[0].width) == even
    assert abs(frames[0].to_ndarray(format="bgr24").astype(int) - 200).max() < 8, "the border repeats the picture"


def test_h264_refuses_another_size(tmp_path: Path, frame: Array) -> None:
    pytest.importorskip("av")
    with pytest.raises(UserError, match=r"big is 96x64 .*before it are 48x64; a video has one size.*--out FOLDER"):  # noqa: SIM117
        with H264Sink(tmp_path / "out.mp4") as sink:
            sink.write(result(frame))
            sink.write(result(np.zeros((96, 64, 3), np.uint8), name="big"))
    assert not list(tmp_path.iterdir())


def test_h264_without_av(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"H\.264 needs PyAV: pip install av; or write masks with --masks DIR"):
        H264Sink(tmp_path / "out.mp4")


def test_masks_are_exact(tmp_path: Path, labels: LabelSpec) -> None:
    picture = np.zeros((30, 40, 3), np.uint8)
    with MaskSink(tmp_path / "masks", labels=labels) as sink:
        sink.write(result(picture, name="a"))
    expected = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4) % 4, np.ones((10, 10), np.uint8))
    assert np.array_equal(read_label_map(tmp_path / "masks/a.png"), expected)
    assert json.loads((tmp_path / "masks" / CLASSES).read_text())["classes"] == list(labels.names)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["masks"]


def test_images(tmp_path: Path, labels: LabelSpec, frame: Array) -> None:
    with ImageFolderSink(tmp_path / "deep/folder", labels=labels) as sink:
        sink.write(result(frame, name="a"))
    assert np.array_equal(read_frame(tmp_path / "deep/folder/a.png"), frame)
    for name in ("one.png", "one.JPG"):
        with ImageSink(tmp_path / name) as image:
            image.write(result(frame))
        assert abs(read_frame(tmp_path / name).astype(int) - frame).mean() < 2


def sinks(folder: Path, labels: LabelSpec) -> list[Sink]:
    return [
        H264Sink(folder / "out.mp4"),
        MaskSink(folder / "masks", labels=labels),
        ImageFolderSink(folder / "images", labels=labels),
        ImageSink(folder / "out.png"),
    ]


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_after_an_error(
    tmp_path: Path, labels: LabelSpec, frame: Array, index: int, error: type[BaseException]
) -> None:
    pytest.importorskip("av")
    sink = sinks(tmp_path, labels)[index]
    with pytest.raises(error), sink:
        sink.write(result(frame))
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("index", range(4))
def test_older_output_stays_until_the_new_one_is_whole(
    tmp_path: Path, labels: LabelSpec, frame: Array, index: int
) -> None:
    pytest.importorskip("av")

    def content(path: Path) -> dict[str, bytes]:
        files = [path] if path.is_file() else path.iterdir()
        return {file.name: file.read_bytes() for file in files}

    sink = sinks(tmp_path, labels)[index]
    with sink:
        sink.write(result(frame, name="old"))
    before = content(sink.path)
    again = sinks(tmp_path, labels)[index]
    with pytest.raises(KeyboardInterrupt), again:
        again.write(result(255 - frame, name="new"))
        assert content(sink.path) == before
        raise KeyboardInterrupt
    assert content(sink.path) == before
    third = sinks(tmp_path, labels)[index]
    with third:
        third.write(result(255 - frame, name="new"))
    assert content(sink.path) != before
    assert "old.png" not in content(sink.path)
    assert list(tmp_path.iterdir()) == [sink.path]


@pytest.mark.parametrize("index", range(4))
def test_unwritable_place_fails_on_entering(tmp_path: Path, labels: LabelSpec, index: int) -> None:
    pytest.importorskip("av")
    (tmp_path / "file").write_text("")  # a file where a folder is needed: fails for root, too
    sink = sinks(tmp_path / "file", labels)[index]
    with pytest.raises(UserError, match="cannot be written"):
        sink.__enter__()


def test_foreign_folder_is_not_replaced(tmp_path: Path, labels: LabelSpec) -> None:
    (tmp_path / "holiday.png").write_text("mine")
    with pytest.raises(UserError, match=r"holds files that segpress did not write .*name a new folder"):
        MaskSink(tmp_path, labels=labels).__enter__()
    assert (tmp_path / "holiday.png").read_text() == "mine"


def test_folder_where_a_file_is_needed_and_the_other_way_round(tmp_path: Path, labels: LabelSpec) -> None:
    (tmp_path / "out.png").mkdir()
    with pytest.raises(UserError, match="is a folder; name a file"):
        ImageSink(tmp_path / "out.png").__enter__()
    (tmp_path / "masks").write_text("")
    with pytest.raises(UserError, match="is a file; name a folder"):
        MaskSink(tmp_path / "masks", labels=labels).__enter__()
