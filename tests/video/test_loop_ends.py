"""Ends of the loop: errors, Ctrl-C, a closed window; no thread remains."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.labels import LabelSpec
from pipeline.video import run
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.loop import segment
from pipeline.video.sinks import H264Sink, MaskSink, Stop
from tests.video.fakes import NAMES, Bars, BrightnessEngine, Kept, Shown

pytestmark = pytest.mark.usefixtures("no_thread_stays")


@pytest.mark.parametrize("error", [UserError, RuntimeError])
@pytest.mark.parametrize("where", ["source", "engine", "sink", "window"])
def test_errors_reach_the_caller(labels: LabelSpec, where: str, error: type[BaseException]) -> None:
    class Failing(BrightnessEngine):
        def run(self, frames: Any) -> Any:
            result = super().run(frames)
            if where == "engine" and self.calls >= 12:
                raise error("fails on purpose")
            return result

    source = Bars(1000, fails=10 if where == "source" else None, error=error)
    engine = Failing()
    kept = Kept()
    kind = Shown if where == "window" else Kept
    other = kind(fails=10 if where in ("sink", "window") else None, error=error, pause=0.002)
    with pytest.raises(error, match="fails on purpose"):
        segment(source, [engine, engine], labels=labels, sinks=[kept, other])
    assert kept.ended is other.ended is error
    assert kept.names == NAMES[: len(kept.names)], "in order until then"
    if where == "source":
        assert len(kept.names) == 10, "frames that were read are processed"


def test_an_engine_that_forgets_frames(labels: LabelSpec) -> None:
    class Forgetful(BrightnessEngine):
        def run(self, frames: Any) -> Any:
            result = super().run(frames)
            return result[:-1] if self.calls > 6 else result  # after the warm-up and five full batches

    kept, engines = Kept(), [Forgetful(batches=(1, 2)) for _ in range(2)]
    with pytest.raises(ValueError, match="shorter"):
        segment(Bars(100), engines, labels=labels, sinks=[kept])
    assert kept.names == NAMES[: len(kept.names)]
    assert len(kept.names) >= 10, "earlier results arrive"
    assert kept.ended is ValueError


def test_a_source_that_fails_while_it_is_stopped(engine: BrightnessEngine, labels: LabelSpec) -> None:
    class Stubborn(Bars):
        def stop(self) -> None:
            raise OSError("driver")

    with pytest.raises((UserError, OSError)):
        segment(Stubborn(100), [engine], labels=labels, sinks=[Kept(fails=3)])


def test_an_error_does_not_wait_for_the_next_frame(labels: LabelSpec) -> None:
    class Failing(BrightnessEngine):
        def run(self, frames: Any) -> Any:
            if self.calls == 4:
                raise RuntimeError("fails on purpose")
            return super().run(frames)

    class Silent(Bars):
        def frames(self, *, start: float = 0.0) -> Any:
            yield from super().frames(start=start)
            self._stopped.wait(30)

    engine = Failing()
    start = time.perf_counter()
    with pytest.raises(RuntimeError, match="fails on purpose"):
        segment(Silent(4, live=True, pause=0.05), [engine, engine], labels=labels, sinks=[Kept()])
    assert time.perf_counter() - start < 5


def test_a_sink_that_fails_does_not_wait_for_the_next_frame(engine: BrightnessEngine, labels: LabelSpec) -> None:
    class Silent(Bars):
        def frames(self, *, start: float = 0.0) -> Any:
            yield from super().frames(start=start)
            self._stopped.wait(30)

    start = time.perf_counter()
    with pytest.raises(UserError, match="fails on purpose"):
        segment(Silent(4, live=True, pause=0.05), [engine], labels=labels, sinks=[Kept(fails=3), Kept()])
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("live", [False, True])
def test_ctrl_c_ends_in_good_order(engine: BrightnessEngine, labels: LabelSpec, tmp_path: Path, live: bool) -> None:
    av = pytest.importorskip("av")
    kept = Kept()
    sinks = [H264Sink(tmp_path / "o.mp4"), MaskSink(tmp_path / "m", labels=labels), kept]
    threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    source = Bars(100_000, pause=0.01, live=live)
    summary = segment(source, [engine], labels=labels, sinks=sinks, overlay=Overlay(labels))
    assert summary.interrupted
    assert 5 < summary.frames < 200
    assert "(interrupted)" in summary.describe()
    assert kept.ended is None
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert len(list(container.decode(video=0))) == summary.frames
    assert len(list((tmp_path / "m").glob("*.png"))) == summary.frames
    assert len(list(tmp_path.iterdir())) == 2


def test_ctrl_c_before_the_first_frame(engine: BrightnessEngine, labels: LabelSpec, tmp_path: Path) -> None:
    pytest.importorskip("av")
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        segment(Bars(10, pause=30), [engine], labels=labels, sinks=[H264Sink(tmp_path / "o.mp4")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("started", range(3))
def test_ctrl_c_while_the_threads_start(
    engine: BrightnessEngine, labels: LabelSpec, started: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread remains that works on sinks that were left."""
    start, calls = threading.Thread.start, itertools.count()

    def interrupted(self: threading.Thread) -> None:
        if next(calls) == started:
            raise KeyboardInterrupt
        start(self)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    monkeypatch.setattr(run, "usable_cores", lambda: 2)
    kept = Kept()
    with pytest.raises(KeyboardInterrupt):
        segment(Bars(10_000, pause=0.005), [engine, engine], labels=labels, sinks=[kept])
    assert engine.calls == 2, "the warm-up of both"
    assert kept.ended is KeyboardInterrupt


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_while_a_file_hangs(
    engine: BrightnessEngine, labels: LabelSpec, cores: int, signals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames that were read are processed, and a second Ctrl-C changes nothing."""
    goes_on = threading.Event()

    class Hanging(Bars):
        def frames(self, *, start: float = 0.0) -> Any:
            yield from super().frames(start=start)
            goes_on.wait(20)

    monkeypatch.setattr(run, "usable_cores", lambda: cores)
    kept = Kept()
    for number in range(signals):
        threading.Timer(0.3 + 0.5 * number, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.perf_counter()
    summary = segment(Hanging(6), [engine], labels=labels, sinks=[kept])
    assert time.perf_counter() - start < 10
    assert (summary.frames, summary.interrupted) == (6, True)
    assert kept.ended is None
    goes_on.set()


def test_closing_the_window_ends_in_good_order(engine: BrightnessEngine, labels: LabelSpec) -> None:
    kept = Kept()
    window = Shown(fails=5, error=Stop)
    summary = segment(Bars(10_000, pause=0.005), [engine], labels=labels, sinks=[kept, window])
    assert not summary.interrupted
    assert 5 < summary.frames < 100
    assert kept.ended is window.ended is None
    assert len(kept.results) == summary.frames
