"""Events of results: lines, clips decoded again, what a failed run leaves, and memory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.loop import segment
from pipeline.video.overlay import Overlay
from pipeline.video.picture import Picture, Yuv
from pipeline.video.rules import Rule, Span
from pipeline.video.sinks import EventSink, Result
from pipeline.video.sinks import _recorder as recorder
from tests.video.fakes import SIZE, Bars, BrightnessEngine

av = pytest.importorskip("av", reason="clips are made by PyAV")

FPS = 25
RULE = Rule("car", ("car",), (1,), None, 0.5, above=True, until=0.5, seconds=0.2, pause=0.4, clip=Span(1.0, 0.6))
SILENT = Rule("car", ("car",), (1,), None, 0.5, above=True, until=0.5, seconds=0.2, pause=0.4, clip=None)
ALL_CAR = np.bincount([1], minlength=256)
NO_CAR = np.bincount([0], minlength=256)


def level(index: int) -> int:
    """Brightness of a frame's picture: says which frame it is, within 25 frames."""
    return 20 + 8 * (index % 25)


@pytest.fixture
def feed(make_result: Callable[..., Result]) -> Callable[..., None]:
    """Gives a sink results 40 ms apart, with a car in the frames of ``cars``."""

    def give(sink: EventSink, frames: Iterable[int], cars: Iterable[int], **changes: object) -> None:
        there = set(cars)
        for index in frames:
            picture = Picture.of_bgr(np.full((*SIZE, 3), level(index), np.uint8))
            pixels = ALL_CAR if index in there else NO_CAR
            sink.write(make_result(index, pixels=pixels, picture=picture, **changes))

    return give


def make(folder: Path, *rules: Rule, **options: Any) -> EventSink:
    return EventSink(folder, rules, source="drive.mp4", run="r", **{"fps": FPS, "crf": 4, **options})


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def clips(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.mp4"))


def shown(path: Path) -> tuple[list[int], list[float]]:
    """Which frames a clip shows (see ``level``), and their times in it."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    means = [frame.to_ndarray(format="bgr24").mean() for frame in frames]
    return [round((mean - 20) / 8) for mean in means], [frame.time for frame in frames]


def test_lines_of_an_event(tmp_path: Path, feed: Any) -> None:
    with make(tmp_path / "events", SILENT) as sink:
        assert not sink.wants_picture
        feed(sink, range(60), range(10, 21))
    begin, end = lines(tmp_path / "events")
    now = datetime.now(timezone.utc)
    for line in (begin, end):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["utc"])
        assert abs((now - datetime.fromisoformat(line.pop("utc").replace("Z", "+00:00"))).total_seconds()) < 30
    facts = {"event": "car", "id": "r-1", "source": "drive.mp4", "class": ["car"], "zone": None, "above": 0.5}
    # 11 frames with a car from 0.4 s to 0.8 s; 0.2 s of it are over at 0.6 s; 0.4 s without it are over at 1.2 s
    first = {"index": 15, "frame": "000015", "time_s": 0.6, "share": 1.0, "since_s": 0.4}
    last = {"index": 30, "frame": "000030", "time_s": 1.2, "share": 0.0, "since_s": 0.4, "until_s": 0.8}
    assert begin == {**facts, "state": "begin", **first}
    assert end == {**facts, "state": "end", **last, "seconds": 0.4, "peak": 1.0, "cause": "over"}
    assert sink.to_meta() == {"rules": {"car": {"events": 1, "seconds": 0.4, "clips": 0}}, "calls": []}
    assert sink.describe() == "events of car: 1, 0.4 s in all, 0 clips"


def test_a_line_is_there_at_once_and_what_was_there_stays(tmp_path: Path, feed: Any) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "old"}\n')
    with make(tmp_path, SILENT) as sink:
        feed(sink, range(5), range(60))
        assert len(lines(tmp_path)) == 1
        feed(sink, range(5, 6), range(60))
        assert [line.get("state") for line in lines(tmp_path)] == [None, "begin"]
        feed(sink, range(6, 20), range(60))
    found = lines(tmp_path)
    assert [line.get("state") for line in found] == [None, "begin", "end"]
    assert found[-1]["cause"] == "end of run"
    assert (found[-1]["time_s"], found[-1]["until_s"], found[-1]["seconds"]) == (0.76, 0.76, 0.76)


def test_without_timestamps_the_clock_is_that_of_arrivals(tmp_path: Path, make_result: Callable[..., Result]) -> None:
    with make(tmp_path, SILENT) as sink:
        for index, arrived in enumerate((10.0, 10.1, 10.15, 10.25, 10.3, 10.7)):
            pixels = ALL_CAR if index < 4 else NO_CAR
            sink.write(make_result(index, pixels=pixels, timestamp=None, arrived=arrived))
    begin, end = lines(tmp_path)
    assert (begin["index"], begin["time_s"], begin["since_s"]) == (3, None, None)
    assert (end["index"], end["time_s"], end["until_s"], end["seconds"]) == (5, None, None, 0.25)


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
def test_clips_whatever_the_encoder_holds_back(tmp_path: Path, feed: Any, preset: str) -> None:
    """A slower preset looks ahead by many frames, so packets come much later than frames."""
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
    found = [(line["id"], line["clip"], line["before_s"]) for line in lines(tmp_path) if line["state"] == "clip"]
    assert found == [("r-1", "car-0001.mp4", 0.0), ("r-2", "car-0001.mp4", 1.0), ("r-3", "car-0002.mp4", 0.0)]
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


def test_a_run_that_fails_completes_what_there_is(tmp_path: Path, feed: Any) -> None:
    with pytest.raises(ZeroDivisionError), make(tmp_path, RULE) as sink:
        feed(sink, range(20), range(20))
        raise ZeroDivisionError
    assert [line["state"] for line in lines(tmp_path)] == ["begin", "end", "clip"]
    assert shown(tmp_path / "car-0001.mp4")[0] == list(range(20))


def test_a_run_that_does_not_begin_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), make(tmp_path / "events", RULE):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    (tmp_path / "events.jsonl").write_text("")
    with pytest.raises(KeyboardInterrupt), make(tmp_path, RULE):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["events.jsonl"], "it was there before"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/events\.jsonl: cannot be written \(.*--event-dir DIR"):
        make(tmp_path / "file", SILENT).__enter__()
    (tmp_path / "events.jsonl").mkdir()
    with pytest.raises(UserError, match=r"events\.jsonl: cannot be written \(Is a directory\)"):
        make(tmp_path, SILENT).__enter__()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, feed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with (
        pytest.raises(UserError, match=r"events\.jsonl: cannot be written \(No space left"),
        make(tmp_path, SILENT) as sink,
    ):
        feed(sink, range(30), range(10))
        monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
        feed(sink, range(30, 60), range(60))
    assert [line["state"] for line in lines(tmp_path)] == ["begin", "end"]


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


def test_clips_need_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UserError, match=r'clips of events need PyAV: pip install av; or write "clip": false'):
        make(tmp_path, SILENT, RULE)
    make(tmp_path, SILENT)


def test_memory_is_flat(tmp_path: Path, make_result: Callable[..., Result]) -> None:
    random = np.random.default_rng(0)
    noise = [Picture.of_bgr(random.integers(0, 255, (*SIZE, 3), np.uint8)) for _ in range(7)]
    held, groups = [], []
    with make(tmp_path, RULE, crf=40) as sink:
        assert sink._clips is not None
        for index in range(2000):
            car = index % 500 in range(200, 260)
            sink.write(make_result(index, pixels=ALL_CAR if car else NO_CAR, picture=noise[index % 7]))
            held.append(sink._clips.held)
            groups.append(sum(map(len, sink._clips._recorder._groups)))
            assert len(sink._clips._open) <= 1 and len(sink._clips._recorder._encoding) <= 2
    # 1.2 s are needed, and groups of frames last 2 s: at most 3.2 s and a frame
    assert max(groups) <= 81
    assert max(held[1000:]) <= 1.05 * max(held[:500])
    assert len(clips(tmp_path)) == 4


def test_memory_has_a_limit_in_bytes(
    tmp_path: Path, make_result: Callable[..., Result], caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(0)
    found = recorder.Recorder(tmp_path, keep=20.0, memory=1 << 20, fps=FPS, crf=0)
    for index in range(500):
        noise = Picture.of_bgr(random.integers(0, 255, (*SIZE, 3), np.uint8))
        found.record(make_result(index, picture=noise), index / FPS)
        assert found.held <= (1 << 20) + 50 * 16_000, "and a group"
    found.flush()
    pieces = list(found.since(0.0))
    assert pieces[0].is_key and pieces[-1].seconds == 499 / FPS
    assert [round(piece.seconds * FPS) for piece in pieces] == list(range(500 - len(pieces), 500))
    assert len(caplog.messages) == 1
    assert "20 s of frames need more memory than 1 MB: clips begin later" in caplog.text
    found.close()


def test_in_a_run(tmp_path: Path, engine: BrightnessEngine, labels: LabelSpec) -> None:
    """Frames that are all car by the fake engine are an event, with its clip and its overlay."""

    def image(index: int) -> Any:
        return np.full((*SIZE, 3), 96 if 20 <= index < 50 else 32, np.uint8)

    sink = make(tmp_path, RULE)
    segment(Bars(80, image=image), [engine], labels=labels, sinks=[sink], overlay=Overlay(labels))
    found = lines(tmp_path)
    assert [line["state"] for line in found] == ["begin", "end", "clip"]
    assert (found[0]["since_s"], found[1]["until_s"]) == (0.8, 1.96)
    with av.open(str(tmp_path / "car-0001.mp4")) as container:
        frames = [frame.to_ndarray(format="bgr24").mean(axis=(0, 1)) for frame in container.decode(video=0)]
    assert len(frames) == 65
    car = np.array(labels.palette[1][::-1])
    assert abs(frames[30] - (96 + car) / 2).max() < 8, "the colour of the class is blended in"


def test_a_clip_of_a_run_that_is_killed_plays(tmp_path: Path, feed: Any) -> None:
    with make(tmp_path, RULE) as sink:
        feed(sink, range(150), range(10, 150))
        (partial,) = tmp_path.glob("*.mp4")
        assert partial.name.startswith("car.partial-")
        assert shown(partial)[0] == [index % 25 for index in range(100)], "up to the last key frame"


def test_lines_of_several_runs_in_one_folder(tmp_path: Path, feed: Any) -> None:
    sinks: Sequence[EventSink] = [EventSink(tmp_path, [SILENT], source=name, fps=FPS) for name in ("a", "b")]
    with sinks[0], sinks[1]:
        for index in range(30):
            for sink in sinks:
                feed(sink, [index], range(10))
    found = lines(tmp_path)
    assert sorted((line["source"], line["state"]) for line in found) == [
        *(("a", "begin"), ("a", "end"), ("b", "begin"), ("b", "end"))
    ]
    assert len({line["id"] for line in found}) == 2


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
