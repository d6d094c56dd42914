"""Several cameras in another program: newest frames, complete files, ends, errors, and leaving early."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video import watching
from pipeline.video.watching import watch
from tests.video.fakes import Bars, BrightnessEngine, quarters


@pytest.fixture(autouse=True)
def opened(engine: BrightnessEngine, labels: LabelSpec, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Options with which the engine was opened."""
    asked: list[dict[str, Any]] = []

    def open_engines(path: Path, **options: Any) -> Any:
        asked.append(options)
        return [engine], SimpleNamespace(labels=labels)

    monkeypatch.setattr(watching, "open_engines", open_engines)
    return asked


def test_every_frame_of_files_with_its_mask(engine: BrightnessEngine, opened: list[dict[str, Any]]) -> None:
    sources = {"one": Bars(7), "two": Bars(5, image=lambda index: quarters(index)[:, ::-1])}
    watched = list(watch("engine", sources))
    assert Counter(each.source for each in watched) == {"one": 7, "two": 5}
    for each in watched:
        image = quarters(each.result.index)
        assert np.array_equal(each.frame, image if each.source == "one" else image[:, ::-1])
        assert np.array_equal(each.mask, each.frame[..., 1] // 64)
    assert [each.result.index for each in watched if each.source == "one"] == list(range(7))
    assert (opened[0]["live"], opened[0]["sources"]) == (True, 2) and engine.closed


def test_the_newest_frame_of_a_camera_counts_for_a_slow_program() -> None:
    camera = Bars(200, live=True, pause=0.005)
    indices = []
    for each in watch("engine", {"camera": camera}):
        indices.append(int(each.result.name.removeprefix("bars-")))
        time.sleep(0.05)
        if len(indices) == 8:
            break
    assert np.diff(indices)[1:].min() >= 3, "frames that came meanwhile are dropped"


def test_leaving_early_ends_the_sources(engine: BrightnessEngine) -> None:
    before = threading.active_count()
    for _ in watch("engine", {"front": Bars(100_000, live=True, pause=0.002), "rear": Bars(100_000, pause=0.002)}):
        break
    until = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.02)
    assert threading.active_count() <= before and engine.closed


def test_a_source_that_fails_leaves_the_other_alone(caplog: pytest.LogCaptureFixture) -> None:
    watched = list(watch("engine", {"good": Bars(6), "bad": Bars(6, fails=2)}))
    assert Counter(each.source for each in watched)["good"] == 6
    assert "error: bad: fails on purpose" in caplog.text


def test_no_source_is_refused() -> None:
    for sources in ({}, ["0"]):
        with pytest.raises(UserError, match="as sources; needed: a mapping of names to sources, at least one"):
            list(watch("engine", sources))  # type: ignore[arg-type]


def test_a_camera_may_be_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def opening(text: str) -> Bars:
        asked.append(text)
        return camera

    camera = Bars(3)
    monkeypatch.setattr(watching, "open_source", opening)
    assert len(list(watch("engine", {"front": 0}))) == 3 and asked == ["0"]


def test_a_source_that_opens_too_late_does_not_use_the_closed_engine(
    engine: BrightnessEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = threading.Event()

    def slow(text: str) -> Bars:
        assert opened.wait(10)
        return late

    late = Bars(5)
    closed = threading.Event()
    monkeypatch.setattr(late, "close", closed.set, raising=False)
    monkeypatch.setattr(watching, "open_source", slow)
    monkeypatch.setattr(watching, "_PATIENCE_S", 0.1)
    for _ in watch("engine", {"front": Bars(100_000, live=True, pause=0.002), "rear": "rtsp://rear/1"}):
        break
    calls = engine.calls
    opened.set()
    assert closed.wait(10) and engine.calls == calls and not caplog.text


def test_confidence_comes_along(engine: BrightnessEngine) -> None:
    engine.gives_confidence = True
    engine.run_with_confidence = lambda frames: (engine.run(frames), frames[:, ::2, ::2, 1])  # type: ignore[method-assign]
    for each in watch("engine", {"one": Bars(3)}):
        assert each.result.confidence is not None
        assert np.array_equal(each.result.full_confidence(), each.frame[..., 1])


def test_errors_of_all_sources_and_problems_are_raised() -> None:
    with pytest.raises(UserError, match="fails on purpose"):
        list(watch("engine", {"one": Bars(6, fails=1), "two": Bars(6, fails=0)}))
    with pytest.raises(UserError, match=r"nowhere\.mp4: no such file"):
        list(watch("engine", {"one": "nowhere.mp4"}))
    with pytest.raises(ZeroDivisionError):
        list(watch("engine", {"one": Bars(6), "two": Bars(6, fails=1, error=ZeroDivisionError)}))
