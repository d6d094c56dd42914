"""Events of results: their lines, the files of a failed run, and memory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.drawing.picture import Picture
from pipeline.video.loop import segment
from pipeline.video.sinks import EventSink, Result
from pipeline.video.sinks import _recorder as recorder
from tests.video import watched
from tests.video.fakes import SIZE, Bars, BrightnessEngine
from tests.video.watched import ALL_CAR, FPS, NO_CAR, RULE, SILENT, av, clips, lines, make, shown

feed = watched.feed  # the fixture


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
    # 11 frames with a car from 0.4 s to 0.8 s; 0.2 s with it end at 0.6 s; 0.4 s without it end at 1.2 s
    first = {"index": 15, "frame": "000015", "time_s": 0.6, "share": 1.0, "since_s": 0.4}
    last = {"index": 30, "frame": "000030", "time_s": 1.2, "share": 0.0, "since_s": 0.4, "until_s": 0.8}
    assert begin == {**facts, "state": "begin", **first}
    assert end == {**facts, "state": "end", **last, "seconds": 0.4, "peak": 1.0, "cause": "over"}
    assert sink.to_meta() == {"rules": {"car": {"events": 1, "seconds": 0.4, "clips": 0}}, "calls": []}
    assert sink.describe() == "events of car: 1, 0.4 s in all, 0 clips"


def test_a_line_is_written_at_once_and_older_lines_stay(tmp_path: Path, feed: Any) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "old"}\n')
    with make(tmp_path, SILENT) as sink:
        feed(sink, range(5), range(60))
        assert len(lines(tmp_path)) == 1
        feed(sink, range(5, 6), range(60))
        assert [line.get("state") for line in lines(tmp_path)] == [None, "begin"]
        feed(sink, range(6, 20), range(60))
    written = lines(tmp_path)
    assert [line.get("state") for line in written] == [None, "begin", "end"]
    assert written[-1]["cause"] == "end of run"
    assert (written[-1]["time_s"], written[-1]["until_s"], written[-1]["seconds"]) == (0.76, 0.76, 0.76)


def test_without_timestamps_the_clock_is_that_of_arrivals(tmp_path: Path, make_result: Callable[..., Result]) -> None:
    with make(tmp_path, SILENT) as sink:
        for index, arrived in enumerate((10.0, 10.1, 10.15, 10.25, 10.3, 10.7)):
            pixels = ALL_CAR if index < 4 else NO_CAR
            sink.write(make_result(index, pixels=pixels, timestamp=None, arrived=arrived))
    begin, end = lines(tmp_path)
    assert (begin["index"], begin["time_s"], begin["since_s"]) == (3, None, None)
    assert (end["index"], end["time_s"], end["until_s"], end["seconds"]) == (5, None, None, 0.25)


def test_a_run_that_fails_completes_its_events(tmp_path: Path, feed: Any) -> None:
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
    recording = recorder.Recorder(tmp_path, keep=20.0, memory=1 << 20, fps=FPS, crf=0)
    for index in range(500):
        noise = Picture.of_bgr(random.integers(0, 255, (*SIZE, 3), np.uint8))
        recording.record(make_result(index, picture=noise), index / FPS)
        assert recording.held <= (1 << 20) + 50 * 16_000, "and a group"
    recording.flush()
    pieces = list(recording.since(0.0))
    assert pieces[0].is_key and pieces[-1].seconds == 499 / FPS
    assert [round(piece.seconds * FPS) for piece in pieces] == list(range(500 - len(pieces), 500))
    assert len(caplog.messages) == 1
    assert "20 s of frames need more memory than 1 MB: clips begin later" in caplog.text
    recording.close()


def test_in_a_run(tmp_path: Path, engine: BrightnessEngine, labels: LabelSpec) -> None:
    """Frames that are all car by the fake engine are an event, with its clip and its overlay."""

    def image(index: int) -> Any:
        return np.full((*SIZE, 3), 96 if 20 <= index < 50 else 32, np.uint8)

    sink = make(tmp_path, RULE)
    segment(Bars(80, image=image), [engine], labels=labels, sinks=[sink], overlay=Overlay(labels))
    written = lines(tmp_path)
    assert [line["state"] for line in written] == ["begin", "end", "clip"]
    assert (written[0]["since_s"], written[1]["until_s"]) == (0.8, 1.96)
    with av.open(str(tmp_path / "car-0001.mp4")) as container:
        frames = [frame.to_ndarray(format="bgr24").mean(axis=(0, 1)) for frame in container.decode(video=0)]
    assert len(frames) == 65
    car = np.array(labels.palette[1][::-1])
    assert abs(frames[30] - (96 + car) / 2).max() < 8, "the colour of the class is blended in"


def test_lines_of_several_runs_in_one_folder(tmp_path: Path, feed: Any) -> None:
    sinks: Sequence[EventSink] = [EventSink(tmp_path, [SILENT], source=name, fps=FPS) for name in ("a", "b")]
    with sinks[0], sinks[1]:
        for index in range(30):
            for sink in sinks:
                feed(sink, [index], range(10))
    written = lines(tmp_path)
    assert sorted((line["source"], line["state"]) for line in written) == [
        *(("a", "begin"), ("a", "end"), ("b", "begin"), ("b", "end"))
    ]
    assert len({line["id"] for line in written}) == 2
