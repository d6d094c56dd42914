from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import read_label_map, resize_frame, resize_label_map
from pipeline.labels import LabelSpec
from pipeline.video import run
from pipeline.video.loop import segment
from pipeline.video.overlay import Overlay
from pipeline.video.selection import Selection
from pipeline.video.sinks import H264Sink, MaskSink, Stop
from pipeline.video.view import Looking, Region
from tests.video.fakes import Bars, BrightnessEngine, Kept, Shown, quarters

ROOT = Path(__file__).parents[2]
NAMES = [f"bars-{index:03d}" for index in range(1000)]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Any:
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(2)
    assert not [thread.name for thread in left if thread.is_alive()]


def test_results_are_those_of_the_sequential_loop(engine: BrightnessEngine, labels: LabelSpec) -> None:
    sink, seen = Kept(), []
    summary = segment(Bars(8), [engine], labels=labels, sinks=[sink], progress=seen.append)
    assert sink.names == NAMES[:8]
    assert sink.ended is None
    for index, result in enumerate(sink.results):
        expected = engine.run(resize_frame(quarters(index), engine.input_size)[None])[0]
        assert np.array_equal(result.label_map, expected)
        assert np.array_equal(result.full_label_map(255), resize_label_map(expected, (48, 64)))
        assert (result.index, result.timestamp, result.size) == (index, index / 25, (48, 64))
        assert result.picture is None
        assert result.frame is not None
        assert np.array_equal(result.frame.planes[0], quarters(index))
        assert np.array_equal(result.pixels, np.bincount(expected.ravel(), minlength=256))
        assert result.infer_ms > 0
    assert seen == sorted(set(seen)), "progress rises"
    assert seen[-1] == 8
    assert summary.frames == 8
    assert summary.fps == pytest.approx(8 / summary.seconds)
    assert list(summary.steps) == ["read", "resize", "infer", "draw", "write", "age"]
    assert all(0 <= step.p50_ms <= step.p99_ms for step in summary.steps.values())
    assert list(summary.shares.values()) == pytest.approx([0.25] * 4)
    assert (summary.other, summary.dropped, summary.interrupted) == (0, 0, False)


@pytest.mark.parametrize("contexts", [1, 2, 5])
@pytest.mark.parametrize("batches", [(1, 1), (3, 3), (1, 4)])
def test_order_is_kept_however_long_a_frame_takes(labels: LabelSpec, contexts: int, batches: tuple[int, int]) -> None:
    random = np.random.default_rng(0).uniform(0, 0.01, 1000)
    engine = BrightnessEngine(batches=batches, delay=lambda call: random[call])
    sink = Kept()
    segment(Bars(50), [engine] * contexts, labels=labels, sinks=[sink])
    assert sink.names == NAMES[:50]
    for index, result in enumerate(sink.results):
        expected = resize_frame(quarters(index), engine.input_size)[::2, ::2, 1] // 64
        assert np.array_equal(result.label_map, expected)
    assert max(engine.batch_sizes) == batches[1]
    assert min(engine.batch_sizes) >= batches[0]


def test_stages_overlap(labels: LabelSpec) -> None:
    """Reading, two engines and writing of 20 ms each: one after the other 1.6 s for 20 frames, overlapped 0.4 s."""
    engine = BrightnessEngine(delay=lambda call: 0.04)
    start = time.perf_counter()
    sinks = [Kept(pause=0.02), Kept(pause=0.02)]
    summary = segment(Bars(20, pause=0.02), [engine, engine], labels=labels, sinks=sinks, engines_wait=True)
    assert time.perf_counter() - start < 1.0
    assert summary.frames == 20


@pytest.mark.parametrize(
    ("size", "thumbnail", "most"), [((48, 64), False, 60), ((2160, 3840), False, 20), ((2160, 3840), True, 20)]
)
def test_memory_is_bounded_by_whoever_is_slow(
    engine: BrightnessEngine, labels: LabelSpec, size: tuple[int, int], thumbnail: bool, most: int
) -> None:
    read: list[int] = []
    frame = np.zeros((*size, 3), np.uint8)

    def image(index: int) -> Any:
        read.append(index)
        return quarters() if thumbnail and index % 20 == 0 else frame

    ahead: list[int] = []

    class Slow(Kept):
        def write(self, result: Any) -> None:
            super().write(result)
            ahead.append(len(read) - result.index)

    segment(Bars(100, image=image), [engine, engine], labels=labels, sinks=[Slow(pause=0.005)])
    assert max(ahead) <= most
    assert max(ahead) > most / 2, "frames of video that are small wait in numbers, which is faster"


def test_live_sources_drop_and_count_and_files_do_not(labels: LabelSpec) -> None:
    engine = BrightnessEngine(delay=lambda call: 0.03)
    sink = Kept()
    summary = segment(Bars(60, live=True, pause=0.005), [engine], labels=labels, sinks=[sink])
    assert summary.frames == len(sink.results)
    assert summary.frames + summary.dropped == 60
    assert summary.dropped > 20
    assert sink.results[-1].dropped == summary.dropped
    assert sink.names == sorted(sink.names)
    assert sink.names[-1] == NAMES[59], "the newest frame is what counts"
    assert summary.steps["age"].p99_ms < 250, "nothing queues up"
    slow = segment(Bars(20, pause=0.001), [engine], labels=labels, sinks=[Kept()])
    assert (slow.frames, slow.dropped) == (20, 0)


def test_what_only_shows_holds_nobody_up(engine: BrightnessEngine, labels: LabelSpec) -> None:
    shown, kept, window = Kept(pause=0.2, patient=False), Kept(), Shown(patient=False)
    start = time.perf_counter()
    segment(Bars(40), [engine], labels=labels, sinks=[shown, kept, window])
    assert time.perf_counter() - start < 2
    assert len(kept.results) == 40
    assert 1 <= len(shown.results) < 10
    assert shown.names[-1] == NAMES[39], "the last frame is shown"
    assert window.threads == {threading.main_thread().name}
    assert window.names[-1] == NAMES[39]


def test_an_engine_beside_others_that_sees_a_part(engine: BrightnessEngine, labels: LabelSpec) -> None:
    sink = Kept()
    looking = Looking("stretch", Region.parse("16,0,32,48"))
    segment(Bars(1), [engine], labels=labels, sinks=[sink], looking=looking)
    mask = sink.results[0].full_label_map(255)
    assert np.array_equal(np.unique(mask[:, 16:48]), [1, 2])
    assert (mask[:, :16] == 255).all()
    assert (mask[:, 48:] == 255).all()
    with pytest.raises(UserError, match=r"bars-000: region 60,0,32,48 reaches beyond the frame"):
        segment(Bars(1), [engine], labels=labels, looking=Looking(region=Region.parse("60,0,32,48")))


@pytest.mark.parametrize("error", [UserError, RuntimeError])
@pytest.mark.parametrize("where", ["source", "engine", "sink", "window"])
def test_errors_reach_the_caller(labels: LabelSpec, where: str, error: type[BaseException]) -> None:
    class Failing(BrightnessEngine):
        def run(self, frames: Any) -> Any:
            result = super().run(frames)
            if where == "engine" and self.calls >= 12:
                raise error("told to fail")
            return result

    source = Bars(1000, fails=10 if where == "source" else None, error=error)
    engine = Failing()
    kept = Kept()
    kind = Shown if where == "window" else Kept
    other = kind(fails=10 if where in ("sink", "window") else None, error=error, pause=0.002)
    with pytest.raises(error, match="told to fail"):
        segment(source, [engine, engine], labels=labels, sinks=[kept, other])
    assert kept.ended is other.ended is error
    assert kept.names == NAMES[: len(kept.names)], "in order until then"
    if where == "source":
        assert len(kept.names) == 10, "what was read before is finished"


def test_an_engine_that_forgets_frames(labels: LabelSpec) -> None:
    class Forgetful(BrightnessEngine):
        def run(self, frames: Any) -> Any:
            result = super().run(frames)
            return result[:-1] if self.calls > 12 else result

    kept, engine = Kept(), Forgetful(batches=(1, 2))
    with pytest.raises(ValueError, match="shorter"):
        segment(Bars(100), [engine, engine], labels=labels, sinks=[kept])
    assert kept.names == NAMES[: len(kept.names)]
    assert len(kept.names) >= 10, "what was seen before arrives"
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
                raise RuntimeError("told to fail")
            return super().run(frames)

    class Silent(Bars):
        def frames(self, *, start: float = 0.0) -> Any:
            yield from super().frames(start=start)
            self._stopped.wait(30)

    engine = Failing()
    start = time.perf_counter()
    with pytest.raises(RuntimeError, match="told to fail"):
        segment(Silent(4, live=True, pause=0.05), [engine, engine], labels=labels, sinks=[Kept()])
    assert time.perf_counter() - start < 5


def test_a_sink_that_fails_does_not_wait_for_the_next_frame(engine: BrightnessEngine, labels: LabelSpec) -> None:
    class Silent(Bars):
        def frames(self, *, start: float = 0.0) -> Any:
            yield from super().frames(start=start)
            self._stopped.wait(30)

    start = time.perf_counter()
    with pytest.raises(UserError, match="told to fail"):
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
    """None of them is left behind, at work with sinks that were left."""
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
    """What was read is finished, and another Ctrl-C meanwhile changes nothing."""
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


def test_a_window_is_looked_after_while_nothing_comes(engine: BrightnessEngine, labels: LabelSpec) -> None:
    window = Shown()
    segment(Bars(2, pause=0.5, live=True), [engine], labels=labels, sinks=[window])
    assert window.polls > 10


def test_a_frame_that_changes_its_size(engine: BrightnessEngine, labels: LabelSpec, tmp_path: Path) -> None:
    pytest.importorskip("av")

    def image(index: int) -> Any:
        return quarters(index) if index % 2 == 0 else np.zeros((30 + index, 90, 3), np.uint8)

    sinks = [H264Sink(tmp_path / "o.mp4"), MaskSink(tmp_path / "m", labels=labels)]
    segment(Bars(4, image=image), [engine], labels=labels, sinks=sinks, overlay=Overlay(labels))
    assert read_label_map(tmp_path / "m/bars-001.png").shape == (31, 90)
    assert read_label_map(tmp_path / "m/bars-002.png").shape == (48, 64)


@pytest.mark.parametrize("size", [(1, 1), (2, 3000), (4320, 7680)])
def test_sizes_at_the_edge(engine: BrightnessEngine, labels: LabelSpec, tmp_path: Path, size: tuple[int, int]) -> None:
    av = pytest.importorskip("av")
    sinks = [H264Sink(tmp_path / "o.mp4"), MaskSink(tmp_path / "m", labels=labels)]
    frame = np.full((*size, 3), 100, np.uint8)
    overlay = Overlay(labels, legend=True)
    summary = segment(Bars(2, image=lambda index: frame), [engine], labels=labels, sinks=sinks, overlay=overlay)
    assert summary.frames == 2
    mask = read_label_map(tmp_path / "m/bars-001.png")
    assert mask.shape == size
    assert (mask == 1).all()
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert [f.height for f in container.decode(video=0)] == [size[0] + size[0] % 2] * 2


def test_unknown_ids_are_counted_apart(engine: BrightnessEngine, labels: LabelSpec) -> None:
    two = LabelSpec(names=labels.names[:2], palette=labels.palette[:2])
    summary = segment(Bars(1), [engine], labels=two)
    assert summary.other == pytest.approx(0.5)
    assert "(ignored)" in summary.describe()


def test_summary_reads_well(engine: BrightnessEngine, labels: LabelSpec) -> None:
    five = LabelSpec(names=(*labels.names, "boat"), palette=(*labels.palette, (1, 1, 1)))
    summary = segment(Bars(3), [engine], labels=five, sinks=[Kept()])
    text = summary.describe(verbose=True)
    assert text.startswith("3 frames in ")
    assert "1 of 5 classes do not occur" in text
    for word in ("read", "age", "p50 ms", "road", "waiting", "engine"):
        assert word in text
    meta = summary.to_meta()
    assert meta["frames"] == 3
    assert set(meta["steps_ms"]) == {"read", "resize", "infer", "draw", "write", "age"}
    assert meta["class_shares"]["boat"] == 0
    assert set(meta["waiting"]) == {"read", "engine", "sink 1"}


def test_unwritable_target_fails_before_inference(engine: BrightnessEngine, labels: LabelSpec) -> None:
    sink = MaskSink(Path("/dev/null/m"), labels=labels)
    with pytest.raises(UserError, match="cannot be written"):
        segment(Bars(), [engine], labels=labels, sinks=[sink])
    assert engine.calls == 0


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        (Selection(limit=3), NAMES[:3]),
        (Selection(every=10), NAMES[0:50:10]),
        (Selection(start=1.0, duration=0.2), NAMES[25:30]),
        (Selection(start=0.4, every=7, limit=3), NAMES[10:30:7]),
    ],
)
def test_selections(engine: BrightnessEngine, labels: LabelSpec, selection: Selection, names: list[str]) -> None:
    source, sink = Bars(50), Kept()
    segment(source, [engine], labels=labels, sinks=[sink], selection=selection)
    assert sink.names == names
    assert selection.expected(source) == len(names)


def test_bad_selections(engine: BrightnessEngine, labels: LabelSpec) -> None:
    for options in ({"start": -1}, {"duration": 0}, {"every": 0}, {"limit": 0}, {"start": float("nan")}):
        with pytest.raises(UserError, match="from"):
            Selection(**options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"bars: has no frames from 9 s on for 1 s; choose another part"):
        segment(Bars(50), [engine], labels=labels, selection=Selection(start=9, duration=1))
    with pytest.raises(UserError, match="is live, it starts now; leave --start out"):
        segment(Bars(50, live=True), [engine], labels=labels, selection=Selection(start=1))


def test_device_side_imports_stay_small() -> None:
    code = (
        "import sys, pkgutil, importlib, pipeline.video, pipeline.runtimes\n"
        "for m in pkgutil.walk_packages(pipeline.video.__path__, 'pipeline.video.'): importlib.import_module(m.name)\n"
        "heavy = {'torch', 'pydantic', 'onnx', 'dvc', 'rich', 'av', 'onnxruntime', 'tensorrt'} & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_times_follow_from_the_rate_where_a_reader_knows_none(engine: BrightnessEngine, labels: LabelSpec) -> None:
    class Timeless(Bars):
        def frames(self, *, start: float = 0.0) -> Any:
            return (replace(frame, timestamp=None) for frame in super().frames(start=start))

    sink = Kept()
    segment(Timeless(50), [engine], labels=labels, sinks=[sink], selection=Selection(start=0.4, every=5, duration=0.6))
    assert [result.timestamp for result in sink.results] == pytest.approx([0.4, 0.6, 0.8])
