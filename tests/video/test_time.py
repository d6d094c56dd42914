"""Times of frames: one clock that only rises, for every reader, sink and line."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.loop import segment
from pipeline.video.selection import Selection
from pipeline.video.sinks import H264Sink, LinesSink
from pipeline.video.sources import open_source
from pipeline.video.sources._timing import Clock
from tests.video.fakes import Bars, BrightnessEngine
from tests.video.stamped import encode, evenly, line_times, overlay_times, remux, times


def test_the_clock_follows_what_rises(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock("x", step=0.1, leap=10)
    stamps = [0.5, 0.6, 0.61, 5.0, 14.9]
    assert [clock.at(stamp) for stamp in stamps] == pytest.approx(stamps)
    assert not caplog.records


@pytest.mark.parametrize(
    ("stamps", "expected", "warning"),
    [
        ([0, 0.1, 3600, 3600.1, 3600.3], [0, 0.1, 0.2, 0.3, 0.5], "jump by +3599.9 s at 0.10 s"),
        ([90, 90.1, 0, 0.1, 0.3], [90, 90.1, 90.2, 90.3, 90.5], "jump by -90.1 s at 90.10 s"),
        ([0, 0.1, 500, 0.3, 0.4], [0, 0.1, 0.2, 0.3, 0.4], "jump by +499.9 s at 0.10 s"),  # one wild timestamp
        ([0, 0.1, 10.1, 10.2], [0, 0.1, 0.2, 0.3], "jump by +10.0 s"),
        ([0, 0.1, 0.1, 0.3], [0, 0.1, 0.2, 0.3], "do not rise at 0.10 s"),
        ([0, 0.1, 0.05, 0.3], [0, 0.1, 0.2, 0.3], "do not rise at 0.10 s"),
        ([5, 5.1, 0, 0.1, 0.2], [5, 5.1, 5.2, 5.3, 5.4], "do not rise at 5.10 s"),
        ([None, None, None], [0, 0.1, 0.2], None),
        ([0.4, None, 0.6, None], [0.4, 0.5, 0.6, 0.7], None),
    ],
)
def test_the_clock_bridges_problems(
    stamps: list[float | None], expected: list[float], warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock("film", step=0.1, leap=10)
    assert [clock.at(stamp) for stamp in stamps] == pytest.approx(expected)
    assert [record.message.partition(":")[0] for record in caplog.records] == ["film"] * (warning is not None)
    assert (warning or "") in caplog.text


@pytest.mark.parametrize("offset_s", [3600, 20, -30])
@pytest.mark.parametrize("start", [0.0, 1.4, 3.0])
def test_joined_recordings(offset_s: int, start: float, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two joined MPEG-TS files; the clock of the second one is later or earlier."""
    parts = [
        encode(tmp_path / f"{first}.ts", range(first * 25, first * 25 + 50), unit=Fraction(1, 25), options={"g": "10"})
        for first in (100, 100 + offset_s)
    ]
    path = tmp_path / "join.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    got = [(f.name, f.timestamp) for f in open_source(str(path)).frames(start=start)]
    first = round(start * 25)
    assert [name for name, _ in got] == [f"join-{number:06d}" for number in range(first, 100)]
    assert [time for _, time in got] == evenly(100 - first, first=start)
    (record,) = caplog.records
    assert "timestamps jump by" in record.message
    assert "at 1.96 s; the gap counts as one frame" in record.message


def test_one_wild_timestamp_does_not_stretch_the_video(
    infer: Any, make_video: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = encode(  # every frame has a cluster, and its time there
        tmp_path / "x.mkv",
        range(100_000, 102_400, 40),
        options={"bf": "0"},
        muxer={"cluster_time_limit": "1"},
    )
    data = path.read_bytes()
    place = b"\xe7\x83" + (100_000 + 20 * 40).to_bytes(3, "big")
    assert data.count(place) == 1
    path.write_bytes(data.replace(place, b"\xe7\x83\xff\xff\xff"))
    assert infer(path, "--out", "o.mp4", "--lines", "l.jsonl") == 0
    assert overlay_times("o.mp4") == evenly(60)
    assert line_times("l.jsonl") == evenly(60)
    assert caplog.text.count("timestamps jump by") == 1


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("start", [0.0, 1.2])
def test_avi_with_b_frames_rises(codec: str, start: float, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """AVI does not store the order in which frames are shown."""
    options = {"bf": "3", "g": "12"} if codec == "libx264" else {"bf": "2"}
    path = encode(tmp_path / "x.avi", range(60), codec=codec, unit=Fraction(1, 25), options=options)
    got = list(open_source(str(path)).frames(start=start))
    first = round(25 * start)
    assert [f.name for f in got] == [f"x-{number:06d}" for number in range(first, 60)]
    assert [f.timestamp for f in got] == evenly(60 - first, first=start)
    assert not caplog.records


def test_without_pyav_times_are_those_of_the_file(
    make_video: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stamps = [0, 40, 500, 520, 2000, 2040]
    uneven_path = encode(tmp_path / "x.mp4", stamps)
    plain = encode(tmp_path / "plain.avi", range(60), codec="mpeg4", unit=Fraction(1, 25))
    dropped = remux(plain, tmp_path / "dropped.avi", lambda number, packet: number not in (10, 11, 12, 30))
    monkeypatch.setitem(sys.modules, "av", None)
    assert times(uneven_path) == pytest.approx([stamp / 1000 for stamp in stamps], abs=1e-3)
    late = [(f.name, f.timestamp) for f in open_source(str(uneven_path)).frames(start=2)]
    assert late[0] == ("x-000004", pytest.approx(2.0, abs=1e-3))
    assert times(dropped) == pytest.approx([n / 25 for n in range(60) if n not in (10, 11, 12, 30)], abs=1e-3)
    with pytest.raises(UserError, match=r"nothing from 9 s on, it ends at 2\.04 s; start earlier"):
        list(open_source(str(uneven_path)).frames(start=9))
    assert "timestamps" not in caplog.text


def test_a_file_with_times_of_decoding_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def decoding_only(number: int, packet: Any) -> None:
        packet.pts = packet.dts = 40 * number

    plain = encode(tmp_path / "plain.mkv", range(0, 2400, 40))
    path = remux(plain, tmp_path / "x.mkv", decoding_only)
    assert times(path) == evenly(60)
    assert not caplog.records


def test_equal_timestamps_follow_from_the_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def in_pairs(number: int, packet: Any) -> None:
        packet.pts = packet.dts = 80 * (number // 2)

    plain = encode(tmp_path / "plain.mkv", range(0, 1600, 40), options={"bf": "0"})
    path = remux(plain, tmp_path / "pairs.mkv", in_pairs)
    source = open_source(str(path))
    got = [f.timestamp for f in source.frames()]
    assert len(got) == 40
    assert all(b > a for a, b in itertools.pairwise(got) if a is not None and b is not None)
    assert "timestamps do not rise at 0.00 s; times there follow from 12.5 fps; --fps sets" in caplog.text
    assert times(path, fps=25.0) == evenly(40)
    assert [f.name for f in source.frames(start=1)][-1] == "pairs-000039"


def test_frames_far_apart_are_no_problem(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A time lapse with one frame per 15 s."""
    path = encode(tmp_path / "x.mp4", range(12), unit=Fraction(15), rate=Fraction(1, 15))
    assert times(path) == pytest.approx([15.0 * index for index in range(12)])
    assert not caplog.records


def test_all_sinks_have_the_times_of_a_source_that_goes_back(
    engine: BrightnessEngine, labels: LabelSpec, tmp_path: Path
) -> None:
    class Anew(Bars):
        def frames(self, *, start: float = 0.0) -> Any:
            for number, frame in enumerate(super().frames(start=start)):
                time = number / 25 if number < 20 else (number - 20) / 25 if number < 40 else 95_443.7 + number / 25
                yield replace(frame, timestamp=time)

    sinks = [H264Sink(tmp_path / "o.mp4"), LinesSink(tmp_path / "l.jsonl", labels=labels)]
    segment(Anew(60), [engine], labels=labels, sinks=sinks, overlay=Overlay(labels))
    assert overlay_times(tmp_path / "o.mp4") == evenly(60)
    assert line_times(tmp_path / "l.jsonl") == evenly(60)


def test_a_pause_of_a_live_source_stays(engine: BrightnessEngine) -> None:
    class Paused(Bars):
        def frames(self, *, start: float = 0.0) -> Any:
            for number, frame in enumerate(super().frames(start=start)):
                yield replace(frame, timestamp=number + 60.0 * (number > 1))

    got = [f.timestamp for f in Selection().frames(Paused(4, live=True))]
    assert got == [0, 1, 62, 63]


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_pictures_that_begin_after_the_sound(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = encode(tmp_path / name, range(1500, 3900, 40), sound_s=4, options={"g": "12"})
    source = open_source(str(path))
    got = list(source.frames())
    assert [f.timestamp for f in got] == evenly(60, first=1.5)
    assert got[0].name == "late-000000"
    (record,) = caplog.records
    assert "its first picture comes 1.50 s after the start of the file: times are those of the file" in record.message
    late = list(source.frames(start=3))
    assert (len(late), late[0].name, late[0].timestamp) == (23, "late-000037", pytest.approx(2.98, abs=2e-3))
    assert len(list(source.frames(start=1))) == 60


def test_sound_that_begins_later_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert times(encode(tmp_path / "x.mp4", range(0, 400, 40), sound_s=1)) == evenly(10)
    assert not caplog.records


def test_parts_that_follow_each_other_share_no_frame(tmp_path: Path) -> None:
    path = str(encode(tmp_path / "x.mkv", [round(1001 * n / 30) for n in range(150)], rate=Fraction(30000, 1001)))
    source = open_source(path)
    parts = [
        [f.name for f in Selection(start=start, duration=1.0).frames(source)] for start in (0.0, 1.0, 2.0, 3.0, 4.0)
    ]
    assert [*itertools.chain(*parts)] == [f.name for f in source.frames()]
    assert [len(part) for part in parts] == [30, 30, 30, 30, 30]
