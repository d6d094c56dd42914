"""Folders and images; and all sinks: no incomplete files, and no foreign files replaced."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import Array, read_frame, read_label_map
from pipeline.labels import LabelSpec
from pipeline.video.drawing.picture import Box
from pipeline.video.sinks import H264Sink, ImageFolderSink, ImageSink, MaskSink, Sink
from pipeline.video.sinks.folders import CLASSES
from tests.video.fakes import result


def test_masks_are_exact(tmp_path: Path, labels: LabelSpec) -> None:
    picture = np.zeros((30, 40, 3), np.uint8)
    with MaskSink(tmp_path / "masks", labels=labels) as sink:
        sink.write(result(picture, name="a"))
    expected = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4) % 4, np.ones((10, 10), np.uint8))
    assert np.array_equal(read_label_map(tmp_path / "masks/a.png"), expected)
    assert json.loads((tmp_path / "masks" / CLASSES).read_text())["classes"] == list(labels.names)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["masks"]


def test_masks_of_a_part_of_the_frame(tmp_path: Path, labels: LabelSpec) -> None:
    with MaskSink(tmp_path / "masks", labels=labels) as sink:
        sink.write(result(np.zeros((30, 40, 3), np.uint8), name="a", box=Box(10, 20, 6, 8)))
    mask = read_label_map(tmp_path / "masks/a.png")
    assert np.array_equal(mask[10:16, 20:28], np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4) % 4, np.ones((2, 2))))
    mask[10:16, 20:28] = labels.ignore_index
    assert (mask == labels.ignore_index).all()


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
def test_an_error_before_the_first_frame_leaves_nothing(
    tmp_path: Path, labels: LabelSpec, index: int, error: type[BaseException]
) -> None:
    pytest.importorskip("av")
    with pytest.raises(error), sinks(tmp_path, labels)[index]:
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("index", range(3))
def test_an_error_keeps_what_was_written(
    tmp_path: Path, labels: LabelSpec, frame: Array, index: int, caplog: pytest.LogCaptureFixture
) -> None:
    av = pytest.importorskip("av")
    sink = sinks(tmp_path, labels)[index]
    with pytest.raises(RuntimeError), sink:
        sink.write(result(frame))
        raise RuntimeError
    (left,) = tmp_path.iterdir()
    assert ".partial-" in left.name
    assert f"not finished; what was written until then is in {left}" in caplog.text
    if index:
        assert (left / "x.png").exists()
    else:
        with av.open(str(left)) as container:
            assert len(list(container.decode(video=0))) == 1


@pytest.mark.parametrize("index", range(4))
def test_older_output_stays_until_the_new_one_is_complete(
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
    for left in set(tmp_path.iterdir()) - {sink.path}:
        shutil.rmtree(left) if left.is_dir() else left.unlink()
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


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match="is a device or a pipe, and a file would take its place"):
        ImageSink(tmp_path / "pipe.png").__enter__()
    assert (tmp_path / "pipe.png").is_fifo()


def test_a_link_to_a_folder_stays(tmp_path: Path, labels: LabelSpec, frame: Array) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for name in ("a", "b"):
        with MaskSink(tmp_path / "link", labels=labels) as sink:
            sink.write(result(frame, name=name))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/b.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


@pytest.mark.parametrize("place", [".", ".."])
def test_the_current_folder_is_not_replaced(
    tmp_path: Path, labels: LabelSpec, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "masks/deeper").mkdir(parents=True)
    (tmp_path / "masks" / CLASSES).write_text("ours")
    monkeypatch.chdir(tmp_path / ("masks" if place == "." else "masks/deeper"))
    with pytest.raises(UserError, match="is where you are, and the whole folder would be replaced"):
        MaskSink(Path(place), labels=labels).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["masks"]
