"""Room on the disk for a video: a warning before the work; a video that does not fit twice is kept once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.labels import LabelSpec
from pipeline.video.outputs import Outputs
from pipeline.video.places import of_source
from pipeline.video.sinks import H264Sink, Result
from tests.video.fakes import Bars

av = pytest.importorskip("av")
MakeResult = Callable[..., Result]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk; set ``free`` to its number of free bytes."""
    state = SimpleNamespace(free=1 << 40)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: state)
    return state


def written(path: Path, make_result: MakeResult, *, expected: int | None, count: int = 60) -> bytes:
    with H264Sink(path, expected=expected) as sink:
        for index in range(count):
            sink.write(make_result(index))
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == count
    return path.read_bytes()


def test_little_room_has_a_warning_at_the_first_frame(
    tmp_path: Path, make_result: MakeResult, disk: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    disk.free = 100 << 20
    with H264Sink(tmp_path / "o.mp4", expected=1_000_000) as sink:
        sink.write(make_result(0))
        # 2 x 1000000 frames of 48x64 with 0.3 bits per pixel
        assert "o.mp4: about 219 MB are needed for 1000000 frames, 100 MB are free there; free some" in caplog.text
    caplog.clear()
    for expected in (None, 60):
        written(tmp_path / "o.mp4", make_result, expected=expected)
    assert not caplog.messages


def test_without_room_for_two_copies_one_is_kept(
    tmp_path: Path, make_result: MakeResult, disk: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    roomy = written(tmp_path / "a.mp4", make_result, expected=None)
    assert b"moof" not in roomy
    disk.free = 1000
    tight = written(tmp_path / "b.mp4", make_result, expected=None)
    assert b"moof" in tight
    assert "b.mp4: no room to write it once more with its index in front: it stays in fragments" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_a_run_gives_its_sink_the_number_of_frames(labels: LabelSpec) -> None:
    (sink,) = of_source(Outputs(), "a", several=False, expected=7).sinks(Bars(), labels=labels, engine="e")
    assert isinstance(sink, H264Sink)
    assert sink._expected == 7
