"""The overlapped loop: results, their order, memory, live sources, sizes, selections, summary."""

from __future__ import annotations

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
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.loop import segment
from pipeline.video.selection import Selection
from pipeline.video.sinks import H264Sink, MaskSink
from pipeline.video.view import Looking, Region
from tests.video.fakes import NAMES, Bars, BrightnessEngine, Kept, Shown, quarters

pytestmark = pytest.mark.usefixtures("no_thread_stays")


ROOT = Path(__file__).parents[2]


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
def test_memory_is_bounded_by_the_slowest_step(
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


def test_windows_and_pages_do_not_delay_the_run(engine: BrightnessEngine, labels: LabelSpec) -> None:
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


def test_a_window_is_polled_while_no_frame_comes(engine: BrightnessEngine, labels: LabelSpec) -> None:
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
