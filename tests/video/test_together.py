"""Several sources at the same time on one engine: newest frames, separate results, ends and failures."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import EXIT_DAMAGED, UserError
from pipeline.video import command
from pipeline.video.inputs import Input
from pipeline.video.together import Ending, Lane
from tests.video.fakes import Bars, BrightnessEngine, quarters

URLS = ("rtsp://cameras/front", "rtsp://cameras/rear")


class Camera(Bars):
    """Bars without end, or with ``count`` frames; records whether it was closed."""

    def __init__(self, name: str, count: int = 100_000, **options: Any) -> None:
        super().__init__(count, live=True, **{"pause": 0.01, **options})
        self.name = self.stem = name
        self.closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def cameras(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Camera]]:
    """``cameras(front={...}, rear={...})``: the sources that these addresses open."""

    def make(**options: dict[str, Any]) -> dict[str, Camera]:
        by_name = {name: Camera(name, **chosen) for name, chosen in options.items()}

        def open_camera(given: Input, **options: Any) -> Camera:
            return by_name[given.text.rpartition("/")[2]]

        monkeypatch.setattr(Input, "open", open_camera)
        return by_name

    return make


@pytest.fixture
def ctrl_c_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """``ctrl_c_after(seconds)`` interrupts this process."""
    return lambda seconds: threading.Timer(seconds, os.kill, [os.getpid(), signal.SIGINT]).start()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_both_are_segmented_until_ctrl_c(
    infer: Any,
    cameras: Any,
    ctrl_c_after: Any,
    engine: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened = cameras(front={}, rear={"image": lambda index: quarters(index)[:, ::-1]})
    ctrl_c_after(1.0)
    assert infer(*URLS, "--lines", "-", "--json", "s.json") == 0
    output = capsys.readouterr()
    printed = lines(output.out)
    names = ("rtsp-cameras-front", "rtsp-cameras-rear")
    frames = {name: [line for line in printed if line["source"] == name] for name in names}
    assert all(len(each) >= 10 for each in frames.values())
    for each in frames.values():
        assert [line["index"] for line in each] == list(range(len(each)))
        assert [line["time_s"] for line in each] == sorted(line["time_s"] for line in each)
    summary = json.loads(Path("s.json").read_text())
    assert summary["status"] == 0 and summary["frames"] == len(printed) and summary["fps"] > 10
    assert [source["frames"] for source in summary["sources"]] == [len(each) for each in frames.values()]
    assert {"turn", "infer", "age"} <= set(summary["sources"][0]["steps_ms"])
    rows = [line.split() for line in output.err.splitlines() if line.startswith(("source", "front", "rear"))]
    assert rows[0] == ["source", "frames", "fps", "dropped", "age", "ms", "result"]
    assert [row[0] for row in rows[1:]] == ["front", "rear"]
    assert all(camera.closed for camera in opened.values()) and engine.closed


def test_a_slow_engine_drops_frames_of_each_alike(
    infer: Any,
    cameras: Any,
    ctrl_c_after: Any,
    engine: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One camera is five times as fast as the other; the engine is slower than both."""
    cameras(front={"pause": 0.004}, rear={"pause": 0.02})
    engine.delay = lambda call: 0.03
    ctrl_c_after(2.0)
    assert infer(*URLS, "--lines", "{name}.jsonl", "--json", "s.json") == 0
    front, rear = json.loads(Path("s.json").read_text())["sources"]
    assert abs(front["frames"] - rear["frames"]) <= max(4, 0.2 * rear["frames"])
    assert front["dropped"] > 3 * rear["dropped"] > 0
    newest = lines(Path("rtsp-cameras-front.jsonl").read_text())[-1]
    assert newest["age_ms"] < 500, "the newest frame counts, not a queue of old ones"


def test_one_that_ends_or_fails_leaves_the_other_alone(
    infer: Any,
    cameras: Any,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    cameras(front={"count": 60}, rear={"fails": 3})
    assert infer(*URLS, "--masks", "m") == EXIT_DAMAGED
    output = capsys.readouterr()
    assert "error: fails on purpose" in caplog.text
    assert "1 of 2 sources were processed; 1 failed" in output.out
    assert len(list(Path("m/rtsp-cameras-front").glob("*.png"))) > 5


def test_strict_ends_all_with_the_first_failure(infer: Any, cameras: Any) -> None:
    cameras(front={}, rear={"fails": 3})
    start = time.monotonic()
    assert infer(*URLS, "--masks", "m", "--strict") == 1
    assert time.monotonic() - start < 10


def test_strict_with_a_file_among_them(
    infer: Any,
    cameras: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The file ends as after Ctrl-C, but without an interruption: the status is that of the failure."""
    cameras(front={"fails": 3}, rear={})["rear"].live = False
    assert infer(*URLS, "--masks", "m", "--strict") == 1
    assert "1 of 2 sources were processed; 1 failed" in capsys.readouterr().out


def test_all_failed(infer: Any, cameras: Any) -> None:
    cameras(front={"fails": 0}, rear={"fails": 0})
    assert infer(*URLS, "--masks", "m") == 1


def test_a_problem_of_ours_ends_all_and_is_raised(infer: Any, cameras: Any) -> None:
    cameras(front={}, rear={"fails": 2, "error": ZeroDivisionError})
    with pytest.raises(ZeroDivisionError):
        infer(*URLS, "--masks", "m")


def test_files_at_the_same_time_lose_no_frame(
    infer: Any,
    make_video: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same masks as in separate runs."""
    one, two = make_video("a.mp4", count=12), make_video("b.mp4", count=7)
    assert infer(one, two, "--masks", "alone") == 0
    assert infer(one, two, "--masks", "together", "--serve", "0") == 0
    for name, count in (("a", 12), ("b", 7)):
        masks = sorted(Path("alone", name).glob("*.png"))
        assert len(masks) == count
        for mask in masks:
            assert mask.read_bytes() == Path("together", name, mask.name).read_bytes()
    assert "2 of 2 sources were processed" in capsys.readouterr().out


def test_zones_and_rules_of_each_camera(
    infer: Any,
    cameras: Any,
    ctrl_c_after: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cameras(front={}, rear={})
    for name in ("front", "rear"):
        zone = {"zones": [{"name": f"{name}-door", "points": [[0, 0], [1, 0], [1, 1]], "unit": "shares"}]}
        Path(f"rtsp-cameras-{name}.json").write_text(json.dumps(zone))
    ctrl_c_after(0.7)
    assert infer(*URLS, "--zones", "{name}.json", "--lines", "{name}.jsonl") == 0
    for name in ("front", "rear"):
        assert list(lines(Path(f"rtsp-cameras-{name}.jsonl").read_text())[0]["zones"]) == [f"{name}-door"]
    Path("rtsp-cameras-rear.json").unlink()
    assert infer(*URLS, "--zones", "{name}.json", "--masks", "m") == 1
    assert "rtsp-cameras-rear.json: " in capsys.readouterr().err
    assert not Path("m").exists()


def test_a_problem_in_the_rules_of_one_source_ends_all_before_they_start(
    infer: Any,
    cameras: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cameras(front={}, rear={})
    for name, kind in (("front", "car"), ("rear", "carr")):
        rule = {"events": [{"name": "busy", "class": kind, "above": 0.1}]}
        Path(f"rtsp-cameras-{name}.json").write_text(json.dumps(rule))
    assert infer(*URLS, "--events", "{name}.json", "--masks", "m") == 1
    assert "rtsp-cameras-rear.json: " in capsys.readouterr().err
    assert not Path("m").exists() and not Path("events").exists()


def test_all_end_when_the_reader_of_lines_ends(
    infer: Any,
    cameras: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Closed:
        """A pipe that is closed after ten lines."""

        def __init__(self) -> None:
            self.lines = 0

        def write(self, line: bytes) -> None:
            self.lines += 1

        def flush(self) -> None:
            if self.lines > 10:
                raise BrokenPipeError

    registered: list[Any] = []
    monkeypatch.setattr("pipeline.video.sinks.lines.atexit.register", registered.append)
    monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=Closed(), write=lambda text: None, flush=lambda: None))
    cameras(front={}, rear={})
    start = time.monotonic()
    assert infer(*URLS, "--lines", "-") == 0
    assert time.monotonic() - start < 10 and registered


def test_ctrl_c_while_a_source_does_not_answer(
    infer: Any,
    cameras: Any,
    ctrl_c_after: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cameras(front={}, rear={})
    answer = Input.open
    answered = threading.Event()

    def slow(given: Input, **options: Any) -> Any:
        if "rear" in given.text:
            answered.wait(20)
        return answer(given, **options)

    monkeypatch.setattr(Input, "open", slow)
    ctrl_c_after(0.8)
    start = time.monotonic()
    assert infer(*URLS, "--masks", "m") == 130
    assert time.monotonic() - start < 8
    answered.set()
    assert "interrupted before its first frame" in capsys.readouterr().out
    assert not Path("m/rtsp-cameras-rear").exists() and list(Path("m/rtsp-cameras-front").glob("*.png"))


def test_a_run_that_begins_after_the_end_writes_nothing() -> None:
    ending = Ending()
    lane = Lane(Input("x"), ending)
    assert lane.can_be_left
    ending.set()
    with pytest.raises(KeyboardInterrupt), lane:
        raise AssertionError("it began")
    assert not lane.can_be_left


def test_outputs_for_one_source_are_refused_before_any_run_starts(
    infer: Any,
    cameras: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cameras(front={}, rear={})
    for option, message in (
        (["--window"], "--benchmark and --window are for one source; got 2"),
        (["--lines", "l.jsonl"], "--lines l.jsonl: all 2 sources would write"),
        (["--out", "rtsp://server/x"], "2 sources cannot be sent to one address"),
    ):
        assert infer(*URLS, *option) == 1
        assert message in capsys.readouterr().err


def test_the_engine_is_opened_for_as_many_sources(
    infer: Any,
    cameras: Any,
    monkeypatch: pytest.MonkeyPatch,
    engine: BrightnessEngine,
) -> None:
    asked: list[dict[str, Any]] = []

    def opener(path: Path, **options: Any) -> Any:
        asked.append(options)
        raise UserError("enough")

    monkeypatch.setattr(command, "open_engines", opener)
    cameras(front={}, rear={})
    assert infer(*URLS, "--masks", "m") == 1
    assert (asked[0]["live"], asked[0]["sources"]) == (True, 2)
