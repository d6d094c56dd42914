"""Long names: of sources, results and temporary files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.drawing.picture import Picture
from pipeline.video.names import shortened, temporary_prefix
from pipeline.video.sinks import H264Sink, ImageSink, LinesSink, MaskSink, Result
from pipeline.video.sources import open_source

MakeResult = Callable[..., Result]


@pytest.mark.parametrize("letter", ["x", "\u00e4", "\u8def"])
def test_shortened(letter: str) -> None:
    for count in range(1, 100):
        name = letter * count
        short = shortened(name, 60)
        assert len(short.encode()) <= 60
        assert short == name or len(name.encode()) > 60
    assert len({shortened(letter * count, 60) for count in range(1, 100)}) == 99, "no two become one"


def test_temporary_prefix(tmp_path: Path) -> None:
    assert temporary_prefix("drive", ".partial-", ".mp4", tmp_path) == "drive.partial-"
    long = temporary_prefix("\u8def" * 83, ".partial-", ".mp4", tmp_path)
    assert long.endswith(".partial-")
    assert 250 <= len(long.encode()) + 8 + len(".mp4") <= 255


def test_results_with_the_longest_names(tmp_path: Path, labels: LabelSpec, make_result: MakeResult) -> None:
    pytest.importorskip("av")
    big = Picture.of_bgr(np.zeros((48, 64, 3), np.uint8))
    files: list[Path] = []
    for suffix, make in (
        (".mp4", H264Sink),
        (".png", ImageSink),
        (".jsonl", lambda path: LinesSink(path, labels=labels)),
        ("", lambda path: MaskSink(path, labels=labels)),
    ):
        path = tmp_path / ("n" * (255 - len(suffix)) + suffix)
        with make(path) as sink:
            sink.write(make_result(0, picture=big))
        files.append(path)
        with make(path) as sink:  # replaces the older file
            sink.write(make_result(0, picture=big))
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_names_that_are_too_long_fail_before_the_work(tmp_path: Path, labels: LabelSpec) -> None:
    for sink in (LinesSink(tmp_path / ("n" * 256), labels=labels), MaskSink(tmp_path / ("n" * 256), labels=labels)):
        with pytest.raises(UserError, match=r"(the name has 256 bytes; at most 255|cannot be written)"), sink:
            pass
    assert not list(tmp_path.iterdir())


def test_frames_of_a_source_with_the_longest_name(
    make_video: Callable[..., Path], tmp_path: Path, labels: LabelSpec, make_result: MakeResult
) -> None:
    video = make_video("n" * 251 + ".mp4", count=2)
    names = [frame.name for frame in open_source(str(video)).frames()]
    with MaskSink(tmp_path / "masks", labels=labels) as sink:
        for index, name in enumerate(names):
            sink.write(make_result(index, name=name))
    assert len(list((tmp_path / "masks").glob("*.png"))) == 2
