"""Sound that is not copied: warnings and errors, and the video is written anyway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.video.outputs import Outputs
from pipeline.video.sinks import Result
from pipeline.video.sources import open_source
from tests.video.fakes import Bars
from tests.video.films import EVENT, film, overlay, when


def test_fps_and_sound_are_refused_together(
    tmp_path: Path, labels: LabelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    source = open_source(str(film(tmp_path / "a.mp4")), fps=50)
    with pytest.raises(UserError, match="--fps changes the speed of the pictures but not of the sound; leave one"):
        Outputs(out=tmp_path / "o.mp4", audio=True, fps=50).sinks(source, labels=labels, engine="e")


def test_sound_that_is_gone_at_the_end_keeps_the_video(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], caplog: pytest.LogCaptureFixture
) -> None:
    path = film(tmp_path / "a.mp4")
    source = open_source(str(path))
    frames = list(source.frames())
    (sink,) = Outputs(out=tmp_path / "o.mp4", audio=True).sinks(source, labels=labels, engine="e")
    with sink:
        for index, frame in enumerate(frames):
            sink.write(make_result(index, picture=frame.picture, timestamp=frame.timestamp))
        path.unlink()
    flash, _, facts = when(tmp_path / "o.mp4")
    assert (flash, facts) == (pytest.approx(EVENT), None)
    assert len(caplog.messages) == 1
    assert f"{path}: its sound could not be copied" in caplog.messages[0]


def test_sound_that_mp4_cannot_hold_keeps_the_video(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], caplog: pytest.LogCaptureFixture
) -> None:
    """A codec may lack parameters that MP4 stores in its header: here PCM that is declared as AAC."""
    source = open_source(str(film(tmp_path / "a.avi", codec="pcm_s16le")))
    assert source.sound is not None
    source.sound = replace(source.sound, codec="aac")
    flash, _, facts = overlay(source, tmp_path / "o.mp4", labels, make_result)
    assert (flash, facts) == (pytest.approx(EVENT, abs=0.05), None)
    assert len(caplog.messages) == 1
    assert "its sound could not be copied" in caplog.messages[0]


def test_sound_that_is_left_out_has_a_warning(
    tmp_path: Path, labels: LabelSpec, make_video: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = film(tmp_path / "a.mp4")
    out = tmp_path / "o.mp4"
    Outputs(out=out).sinks(open_source(str(path)), labels=labels, engine="e")
    assert caplog.messages == [f"{path}: its sound is not carried over to {out}; --audio copies it"]
    caplog.clear()
    Outputs(masks=tmp_path / "m").sinks(open_source(str(path)), labels=labels, engine="e")
    Outputs(out=out).sinks(open_source(str(make_video())), labels=labels, engine="e")
    assert not caplog.messages, "masks have no sound, and this video has none"


def test_a_video_without_sound(
    tmp_path: Path,
    labels: LabelSpec,
    make_video: Callable[..., Path],
    make_result: Callable[..., Result],
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = open_source(str(make_video()))
    _, _, facts = overlay(source, tmp_path / "o.mp4", labels, make_result)
    assert facts is None
    assert caplog.messages == [f"{source.name}: has no sound that can be copied; {tmp_path / 'o.mp4'} is silent"]


@pytest.mark.parametrize(
    ("out", "live", "message"),
    [
        ("pictures", False, r"--audio copies sound into an overlay video; name one with --out NAME\.mp4"),
        (None, False, "--audio copies sound into an overlay video"),
        ("o.mp4", True, "bars: is live, and sound is copied from files only; leave --audio out"),
    ],
)
def test_refusals(tmp_path: Path, labels: LabelSpec, out: str | None, live: bool, message: str) -> None:
    wanted = Outputs(out=tmp_path / out if out else None, masks=tmp_path / "m", audio=True)
    with pytest.raises(UserError, match=message):
        wanted.sinks(Bars(live=live), labels=labels, engine="e")


def test_images_have_no_sound(folder: Path, tmp_path: Path, labels: LabelSpec) -> None:
    with pytest.raises(UserError, match="images have no sound; leave --audio out"):
        Outputs(out=tmp_path / "o.mp4", audio=True).sinks(open_source(str(folder)), labels=labels, engine="e")


def test_the_benchmark_writes_no_sound(labels: LabelSpec) -> None:
    with pytest.raises(UserError, match="--benchmark writes nothing; leave"):
        Outputs(benchmark=True, audio=True).sinks(Bars(), labels=labels, engine="e")


def test_a_failed_video_keeps_its_sound(
    tmp_path: Path, labels: LabelSpec, frame: Array, make_result: Callable[..., Result]
) -> None:
    source = open_source(str(film(tmp_path / "a.mp4")))
    (sink,) = Outputs(out=tmp_path / "o.mp4", audio=True).sinks(source, labels=labels, engine="e")
    with pytest.raises(RuntimeError), sink:
        for index, given in enumerate(source.frames()):
            sink.write(make_result(index, picture=given.picture, timestamp=given.timestamp))
        raise RuntimeError
    (left,) = tmp_path.glob("o.partial-*")
    flash, click, _ = when(left)
    assert click == pytest.approx(flash, abs=0.03)
