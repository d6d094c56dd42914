"""Sound in the overlay video: a click and a flash at the same moment stay at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.labels import LabelSpec
from pipeline.video.sinks import Result
from pipeline.video.sources import open_source
from tests.video.films import EVENT, av, film, overlay, when


@pytest.mark.parametrize(
    ("name", "codec", "written"),
    [
        ("a.mp4", "aac", "aac"),
        ("a.mov", "pcm_s16le", "aac"),
        ("a.mkv", "mp2", "aac"),
        ("a.mkv", "libopus", "opus"),
        ("a.mkv", "flac", "flac"),
        ("a.ts", "aac", "aac"),
        ("a.avi", "pcm_s16le", "aac"),
        ("a.mkv", "ac3", "ac3"),
        ("a.avi", "libmp3lame", "mp3"),
    ],
)
def test_in_step(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], name: str, codec: str, written: str
) -> None:
    source = open_source(str(film(tmp_path / name, codec=codec)))
    flash, click, facts = overlay(source, tmp_path / "o.mp4", labels, make_result)
    before = when(tmp_path / name)
    assert flash == pytest.approx(EVENT, abs=0.041), "AVI begins with a frame that lasts twice as long"
    assert flash is not None
    assert click is not None
    assert before[0] is not None
    assert before[1] is not None
    # encoders shift a click by some milliseconds, and do so in the source, too
    assert click - flash == pytest.approx(before[1] - before[0], abs=0.008)
    assert written in facts[0]
    assert facts[1] <= 2.05


@pytest.mark.parametrize(
    ("name", "selection"),
    [
        ("a.mp4", {"start": 0.6}),
        ("a.mp4", {"start": 0.64, "duration": 1.0}),
        ("a.mp4", {"every": 5}),
        ("a.mp4", {"start": 0.2, "every": 2}),
        ("a.ts", {"start": 0.6}),
        ("a.ts", {"start": 0.64, "duration": 1.0}),
    ],
)
def test_part_of_a_video(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], name: str, selection: dict[str, Any]
) -> None:
    source = open_source(str(film(tmp_path / name)))
    first = next(source.frames()).timestamp  # MPEG-TS: the sound begins a little before the pictures
    assert first is not None and first < 0.03
    from_file = {**selection, "start": selection["start"] + first} if "start" in selection else selection
    flash, click, facts = overlay(source, tmp_path / "o.mp4", labels, make_result, **from_file)
    begin = selection.get("start", 0)
    assert flash == pytest.approx(EVENT - begin, abs=0.001)
    assert click == pytest.approx(flash, abs=0.03)
    assert facts[1] == pytest.approx(selection.get("duration", 2 - begin), abs=0.17)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_pictures_that_begin_late(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], name: str
) -> None:
    source = open_source(str(film(tmp_path / name, late=0.4)))
    flash, click, _ = overlay(source, tmp_path / "o.mp4", labels, make_result)
    assert flash is not None
    assert click == pytest.approx(flash, abs=0.03)


@pytest.mark.parametrize(("layout", "rate"), [("mono", 8_000), ("mono", 44_100), ("stereo", 192_000)])
def test_rates_and_channels(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], layout: str, rate: int
) -> None:
    source = open_source(str(film(tmp_path / "a.mov", codec="pcm_s16le", layout=layout, rate=rate)))
    flash, click, _ = overlay(source, tmp_path / "o.mp4", labels, make_result)
    assert click == pytest.approx(flash, abs=0.03)


def test_times_that_jump_end_the_sound(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], caplog: pytest.LogCaptureFixture
) -> None:
    """Sound that cannot be kept in sync is left out, with a warning."""
    whole = tmp_path / "joined.ts"
    whole.write_bytes(film(tmp_path / "a.ts").read_bytes() * 2)
    flash, click, _ = overlay(open_source(str(whole)), tmp_path / "o.mp4", labels, make_result)
    assert click == pytest.approx(flash, abs=0.03)
    (text,) = [text for text in caplog.messages if "sound" in text]
    assert "the times of its sound jump from" in text
    assert text.endswith("the overlay video has no sound from there on")


def test_pictures_that_leap_end_the_sound(
    tmp_path: Path, labels: LabelSpec, make_result: Callable[..., Result], caplog: pytest.LogCaptureFixture
) -> None:
    """A gap of 12 s in the pictures becomes one frame, so the continuous sound would come too late."""
    source = open_source(str(film(tmp_path / "a.mkv", seconds=16, gap=(2, 14), codec="flac")))
    flash, click, facts = overlay(source, tmp_path / "o.mp4", labels, make_result)
    assert click == pytest.approx(flash, abs=0.03)
    with av.open(str(tmp_path / "o.mp4")) as container:
        sound = container.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(2, abs=0.1)
    assert facts[1] == pytest.approx(4, abs=0.1)
    text = f"{source.name}: its pictures leap in time: the overlay video has no sound from 2.0 s on"
    assert text in caplog.messages
