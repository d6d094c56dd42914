"""Clips of events, decoded again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.video.drawing.picture import Picture, Yuv
from pipeline.video.rules import Rule, Span
from pipeline.video.sinks import Result
from tests.video import watched
from tests.video.watched import ALL_CAR, FPS, NO_CAR, RULE, av, clips, lines, make, shown

feed = watched.feed  # the fixture


def test_a_clip_shows_what_was_before_and_after(tmp_path: Path, feed: Any) -> None:
    with make(tmp_path, RULE) as sink:
        assert sink.wants_picture
        feed(sink, range(250), range(120, 140))
    assert clips(tmp_path) == ["car-0001.mp4"]
    frames, times = shown(tmp_path / "car-0001.mp4")
    # wanted: from 4.8 - 1.0 s on, and the key frame before that is frame 50; 0.6 s after 5.56 s is frame 154
    assert frames == [index % 25 for index in range(50, 155)]
    assert times == pytest.approx([index / FPS for index in range(105)])
    begin, end, clip = lines(tmp_path)
    assert begin["since_s"] == 4.8
    assert clip == {
        **{"event": "car", "id": "r-1", "state": "clip", "clip": "car-0001.mp4"},
        **{"before_s": 2.8, "seconds": 4.16, "frames": 105, "cut": False},
    }
    assert (end["until_s"], end["time_s"]) == (5.56, 5.96)
    data = (tmp_path / "car-0001.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index is at the front"
    assert (tmp_path / "car-0001.mp4").stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["car-0001.mp4", "events.jsonl"]


@pytest.mark.parametrize("preset", ["ultrafast", "medium"])
def test_clips_with_an_encoder_that_delays_packets(tmp_path: Path, feed: Any, preset: str) -> None:
    """A slower preset looks ahead by many frames, so its packets come much later than frames."""
    with make(tmp_path, RULE, preset=preset) as sink:
        feed(sink, range(30), range(10, 16))
    frames, _ = shown(tmp_path / "car-0001.mp4")
    assert frames == [index % 25 for index in range(30)], "as far as the run went"
    with make(tmp_path, RULE, preset=preset) as sink:
        feed(sink, range(150), range(110, 120))
    frames, _ = shown(tmp_path / "car-0002.mp4")
    assert frames == [index % 25 for index in range(50, 135)]


def test_events_in_the_first_and_the_last_frame(tmp_path: Path, feed: Any) -> None:
    at_once = Rule("car", ("car",), (1,), None, 0.5, above=True, until=0.5, seconds=0.0, pause=0.0, clip=Span(0, 0))
    with make(tmp_path, at_once, preset="medium") as sink:
        feed(sink, range(20), [0, 19])
    assert [line["state"] for line in lines(tmp_path)].count("clip") == 2
    assert shown(tmp_path / "car-0001.mp4")[0] == [0]
    assert shown(tmp_path / "car-0002.mp4")[0] == list(range(20)), "the key frame before it is the first frame"


@pytest.mark.parametrize("preset", ["ultrafast", "medium"])
def test_frames_of_the_same_time_are_shown_once(tmp_path: Path, feed: Any, preset: str) -> None:
    at_once = Rule("car", ("car",), (1,), None, 0.5, above=True, until=0.5, seconds=0.0, pause=0.0, clip=Span(0, 0))
    with make(tmp_path, at_once, preset=preset) as sink:
        feed(sink, range(20), range(20), timestamp=1.0)
    assert shown(tmp_path / "car-0001.mp4")[0] == list(range(20))


def test_the_next_event_extends_a_clip_that_still_runs(tmp_path: Path, feed: Any) -> None:
    rule = Rule("car", ("car",), (1,), None, 0.5, above=True, until=0.5, seconds=0.0, pause=0.2, clip=Span(0, 1))
    with make(tmp_path, rule) as sink:
        feed(sink, range(150), [*range(10), *range(25, 35), *range(100, 110)])
    written = [(line["id"], line["clip"], line["before_s"]) for line in lines(tmp_path) if line["state"] == "clip"]
    assert written == [("r-1", "car-0001.mp4", 0.0), ("r-2", "car-0001.mp4", 1.0), ("r-3", "car-0002.mp4", 0.0)]
    assert shown(tmp_path / "car-0001.mp4")[0] == [index % 25 for index in range(60)], "0.04 * 34 + 1 s"
    assert shown(tmp_path / "car-0002.mp4")[0] == [index % 25 for index in range(100, 135)]


def test_two_rules_have_a_clip_each(tmp_path: Path, feed: Any) -> None:
    road = Rule("no car!", ("road",), (0,), None, 0.5, above=True, until=0.5, seconds=0.2, pause=0.2, clip=Span(1, 0))
    with make(tmp_path, RULE, road) as sink:
        feed(sink, range(60), range(30))
    assert clips(tmp_path) == ["car-0001.mp4", "no-car-0001.mp4"]
    assert shown(tmp_path / "car-0001.mp4")[0] == [index % 25 for index in range(45)]
    assert shown(tmp_path / "no-car-0001.mp4")[0] == [index % 25 for index in range(60)]


def test_a_clip_has_a_longest_length(tmp_path: Path, feed: Any) -> None:
    rule = Rule("car", ("car",), (1,), None, 0.5, above=True, until=0.5, seconds=0.0, pause=0.2, clip=Span(0, 1, 1.0))
    with make(tmp_path, rule) as sink:
        feed(sink, range(100), range(80))
    (clip,) = [line for line in lines(tmp_path) if line["state"] == "clip"]
    assert (clip["frames"], clip["seconds"], clip["cut"]) == (26, 1.0, True)
    assert shown(tmp_path / "car-0001.mp4")[0] == [index % 25 for index in range(26)]


def test_clips_never_replace_another(tmp_path: Path, feed: Any) -> None:
    (tmp_path / "car-0001.mp4").write_text("mine")
    for _ in range(2):
        with make(tmp_path, RULE) as sink:
            feed(sink, range(30), range(20))
    assert clips(tmp_path) == ["car-0001.mp4", "car-0002.mp4", "car-0003.mp4"]
    assert (tmp_path / "car-0001.mp4").read_text() == "mine"
    assert [line["clip"] for line in lines(tmp_path) if line["state"] == "clip"] == ["car-0002.mp4", "car-0003.mp4"]


def test_a_clip_of_another_size_and_of_yuv(tmp_path: Path, make_result: Callable[..., Result]) -> None:
    planes = (np.full((48, 64), 100, np.uint8), *(np.full((24, 32), 128, np.uint8) for _ in range(2)))
    with make(tmp_path, RULE) as sink:
        for index in range(20):
            picture = Picture(planes, Yuv()) if index < 10 else Picture.of_bgr(np.full((96, 64, 3), 200, np.uint8))
            sink.write(make_result(index, pixels=ALL_CAR, picture=picture))
    with av.open(str(tmp_path / "car-0001.mp4")) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert {frame.shape for frame in frames} == {(48, 64)} and len(frames) == 20
    assert abs(frames[0].astype(int) - 100).max() <= 2


def test_a_clip_that_cannot_be_written_is_one_error(
    tmp_path: Path, feed: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = OSError(28, "No space left on device")
    with pytest.raises(UserError, match=r"car\.mp4: cannot be written \(No space left"), make(tmp_path, RULE) as sink:
        feed(sink, range(75), range(60, 90))
        (clip,) = sink._clips._open  # type: ignore[union-attr]
        assert clip.file._disk is not None
        clip.file._disk.error = full
        feed(sink, range(75, 80), range(60, 90))
    (left,) = tmp_path.glob("*.mp4")
    assert left.name.startswith("car.partial-")
    assert f"not finished; what was written until then is in {left}" in caplog.text


def test_a_clip_of_a_run_that_is_killed_plays(tmp_path: Path, feed: Any) -> None:
    with make(tmp_path, RULE) as sink:
        feed(sink, range(150), range(10, 150))
        (partial,) = tmp_path.glob("*.mp4")
        assert partial.name.startswith("car.partial-")
        assert shown(partial)[0] == [index % 25 for index in range(100)], "up to the last key frame"


def test_a_rule_that_waits_longer_than_memory_reaches(tmp_path: Path, make_result: Callable[..., Result]) -> None:
    rule = Rule("car", ("car",), (1,), None, 0.5, above=True, until=0.5, seconds=100, pause=1, clip=Span(4, 0))
    with make(tmp_path, rule) as sink:
        assert sink._clips is not None
        for index in range(130):  # a frame a second
            sink.write(make_result(index, pixels=ALL_CAR if index >= 10 else NO_CAR, timestamp=float(index)))
            assert sum(map(len, sink._clips._recorder._groups)) <= 68
    begin, _, clip = lines(tmp_path)
    assert (begin["since_s"], begin["time_s"]) == (10.0, 110.0)
    assert -38.0 <= clip["before_s"] <= -34.0, "64 s are kept, and it begins at a key frame"
    assert clip["frames"] == 129 - 10 + clip["before_s"] + 1


@pytest.mark.parametrize("step", [0.04, 0.3, 1.0, 7.0])
@pytest.mark.parametrize("seconds", [0.0, 3.5])
def test_a_clip_begins_early_enough_at_any_rate(
    tmp_path: Path, make_result: Callable[..., Result], step: float, seconds: float
) -> None:
    span = Span(before=1.5, after=0.0)
    rule = Rule("car", ("car",), (1,), None, 0.5, above=True, until=0.5, seconds=seconds, pause=0, clip=span)
    with make(tmp_path, rule) as sink:
        for index in range(150):
            there = ALL_CAR if 50 <= index < 50 + seconds / step + 2 else NO_CAR
            sink.write(make_result(index, pixels=there, timestamp=index * step))
    begin, _, clip = lines(tmp_path)
    assert begin["since_s"] == pytest.approx(50 * step)
    # a key frame every two seconds, or every frame where frames are further apart
    assert 1.5 - 1e-3 <= clip["before_s"] <= 1.5 + max(2.0, step) + 2 * step
