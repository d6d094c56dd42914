"""The stage with rules: events, their clips and calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.video.sinks import events
from tests.video.hook import Hook


def rules(**changes: object) -> str:
    """A file of one rule: half of the frame, or of a zone, is car, which every frame of moving bars with an id has."""
    rule = {"name": "car", "class": "car", "above": 0.2, "seconds": 0.1, "clip": {"before": 1, "after": 1}, **changes}
    Path("rules.json").write_text(json.dumps({"events": [rule]}))
    return "rules.json"


def test_events(
    infer: Any,
    make_video: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    av = pytest.importorskip("av")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    hook = Hook()
    zone = {"name": "left", "points": [[0, 0], [16, 0], [16, 48], [0, 48]]}
    Path("zones.json").write_text(json.dumps({"zones": [zone]}))
    # ids of the bars on the left, frame by frame: 0 3 2 1 0 3 2 1 ...: a car in every fourth frame
    file = rules(zone="left", seconds=0, pause=0.1, url=hook.url)
    options = ("--zones", "zones.json", "--events", file, "--event-dir", "e", "--json", "s.json")
    assert infer(make_video(count=12), *options) == 0
    hook.stop()
    written = [json.loads(line) for line in Path("e/events.jsonl").read_text().splitlines()]
    # a car at 0.12, 0.28 and 0.44 s; 0.1 s without it end at 0.24 and 0.4 s
    times = [(line["state"], line["time_s"]) for line in written if line["state"] != "clip"]
    assert times == [("begin", 0.12), ("end", 0.24), ("begin", 0.28), ("end", 0.4), ("begin", 0.44), ("end", 0.44)]
    assert [line["clip"] for line in written if line["state"] == "clip"] == ["car-0001.mp4"] * 3
    assert hook.bodies == written
    assert {line["zone"] for line in written if "zone" in line} == {"left"}
    with av.open("e/car-0001.mp4") as container:
        assert len(list(container.decode(video=0))) == 12
    assert sorted(path.name for path in Path().iterdir()) == ["e", "rules.json", "s.json", "zones.json"]
    meta = json.loads(Path("s.json").read_text())["events"]
    assert meta["rules"] == {"car": {"events": 3, "seconds": 0.0, "clips": 1}}
    (calls,) = meta["calls"]
    assert (calls["delivered"], calls["failed"]) == (9, 0)
    output = capsys.readouterr().out
    assert "events of car: 3, 0.0 s in all, 1 clips\n" in output
    assert f"calls of {calls['address']}: 9 delivered\n" in output
    assert "written: e\n" in output


def test_an_address_without_a_server_has_a_warning(
    infer: Any, make_video: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(events, "Caller", partial(events.Caller, pauses=(0.01,)))
    hook = Hook()
    hook.stop()
    assert infer(make_video(), "--events", rules(url=hook.url, clip=False), "--out", "o.mp4") == 0
    output = capsys.readouterr().out
    assert "0 delivered, 2 NOT delivered, the last because of: Connection refused" in output
    assert len(Path("events/events.jsonl").read_text().splitlines()) == 2
    assert Path("o.mp4").exists()


def test_ctrl_c_completes_events(infer: Any, make_video: Callable[..., Path], ctrl_c: Callable[[int], None]) -> None:
    av = pytest.importorskip("av")
    ctrl_c(20)
    assert infer(make_video(count=400), "--events", rules(), "--json", "s.json") == 130
    written = [json.loads(line) for line in Path("events/events.jsonl").read_text().splitlines()]
    assert [line["state"] for line in written] == ["begin", "end", "clip"]
    assert written[1]["cause"] == "end of run"
    with av.open("events/car-0001.mp4") as container:
        frames = len(list(container.decode(video=0)))
    assert frames == written[2]["frames"] == json.loads(Path("s.json").read_text())["frames"] < 400


@pytest.mark.parametrize(
    ("changes", "args", "message"),
    [
        ({"class": "carr"}, [], "events[0].class: 'carr' is no class of this engine; did you mean 'car'?"),
        ({"zone": "left"}, [], "events[0].zone: 'left': there are no zones; name their file: --zones FILE"),
        (
            {},
            ["--benchmark"],
            "--benchmark writes nothing; leave --out, --masks, --lines, --window, --serve",
        ),
        ({}, ["--masks", "m", "--event-dir", "m/e"], "m/e/events.jsonl: is inside m, which is replaced as a whole"),
        ({}, ["--event-dir", "rules.json"], "rules.json/events.jsonl: cannot be written (File exists)"),
    ],
)
def test_problems_of_events(
    infer: Any, folder: Path, changes: Any, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer(folder, "--events", rules(**changes), *args) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["rules.json"]


def test_a_folder_for_events_without_rules(infer: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert infer(folder, "--event-dir", "e") == 1
    assert "e: a folder for events, but no rules; name their file: --events FILE" in capsys.readouterr().err


def test_events_of_images_have_the_pace_of_the_video(infer: Any, folder: Path) -> None:
    """The speed of the machine does not matter: the same images give the same events everywhere."""
    assert infer(folder, "--fps", 2, "--events", rules(clip=True, seconds=1, above=0.1)) == 0
    begin, end, clip = [json.loads(line) for line in Path("events/events.jsonl").read_text().splitlines()]
    assert (begin["frame"], begin["time_s"], end["frame"], end["seconds"]) == ("c", None, "c", 1.0)
    assert (clip["frames"], clip["seconds"]) == (3, 1.0)
