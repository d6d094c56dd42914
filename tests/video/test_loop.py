from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.frames import read_label_map
from pipeline.labels import LabelSpec
from pipeline.video.loop import STEPS, segment
from pipeline.video.overlay import Overlay
from pipeline.video.sinks import H264Sink, ImageFolderSink, MaskSink, Sink
from pipeline.video.sources import Frame, ImageSource, open_source

ROOT = Path(__file__).parents[2]


def test_video_to_overlay_and_masks(
    make_video: Callable[..., Path], engine: Any, labels: LabelSpec, tmp_path: Path
) -> None:
    av = pytest.importorskip("av")
    times = [0.0, 0.04, 0.5, 0.52, 2.0, 2.5]
    source = open_source(make_video(count=6, times=times))
    seen: list[int] = []
    summary = segment(
        source,
        engine,
        labels=labels,
        overlay=Overlay(labels),
        sinks=[H264Sink(tmp_path / "o.mp4"), MaskSink(tmp_path / "m", labels=labels)],
        progress=seen.append,
    )
    assert seen == [1, 2, 3, 4, 5, 6]
    assert engine.calls == 7, "one warm-up"
    assert summary.frames == 6
    assert summary.fps == pytest.approx(6 / summary.seconds)
    assert tuple(summary.steps) == STEPS
    assert all(0 <= step.p50_ms <= step.p99_ms for step in summary.steps.values())
    assert list(summary.shares) == list(labels.names)
    assert list(summary.shares.values()) == pytest.approx([0.25] * 4, abs=0.02)
    assert summary.other == 0
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert [f.time for f in container.decode(video=0)] == pytest.approx(times, abs=2e-3)
    assert len(list((tmp_path / "m").glob("*.png"))) == 6


def test_masks_of_images_are_exact(folder: Path, engine: Any, labels: LabelSpec, tmp_path: Path) -> None:
    sink = MaskSink(tmp_path / "m", labels=labels)
    summary = segment(open_source(folder), engine, labels=labels, sinks=[sink])
    ids = np.tile(np.repeat(np.arange(4, dtype=np.uint8), 16), (48, 1))
    for name, index in (("a", 0), ("c", 2)):  # b is a JPEG
        assert np.array_equal(read_label_map(tmp_path / f"m/{name}.png"), np.roll(ids, 16 * index, axis=1))
    assert sum(summary.shares.values()) + summary.other == pytest.approx(1)


def test_unknown_ids_are_counted_apart(folder: Path, engine: Any, labels: LabelSpec) -> None:
    two = LabelSpec(names=labels.names[:2], palette=labels.palette[:2])
    summary = segment(open_source(folder), engine, labels=two, sinks=[], limit=1)
    assert summary.frames == 1
    assert summary.other == pytest.approx(0.5)
    assert "(ignored)" in summary.describe()


def test_summary_reads_well(folder: Path, engine: Any, labels: LabelSpec) -> None:
    five = LabelSpec(names=(*labels.names, "boat"), palette=(*labels.palette, (1, 1, 1)))
    summary = segment(open_source(folder), engine, labels=five, sinks=[])
    text = summary.describe()
    assert text.startswith("3 frames in ")
    assert "1 of 5 classes do not occur" in text
    for word in (*STEPS, "p50 ms", "road"):
        assert word in text
    meta = summary.to_meta()
    assert meta["frames"] == 3
    assert set(meta["steps_ms"]) == set(STEPS)
    assert meta["class_shares"]["boat"] == 0


class Interrupted(ImageSource):
    """Ctrl-C, or another error, while the third frame is read."""

    error: type[BaseException] = KeyboardInterrupt

    def __iter__(self) -> Iterator[Frame]:
        for index, frame in enumerate(super().__iter__()):
            if index == 2:
                raise self.error
            yield frame


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError])
def test_interruption_leaves_nothing(
    folder: Path, engine: Any, labels: LabelSpec, tmp_path: Path, error: type[BaseException]
) -> None:
    pytest.importorskip("av")
    source = Interrupted(folder, open_source(folder).images)  # type: ignore[attr-defined]
    source.error = error
    out = tmp_path / "out"
    sinks: list[Sink] = [
        H264Sink(out / "o.mp4"),
        MaskSink(out / "m", labels=labels),
        ImageFolderSink(out / "i", labels=labels),
    ]
    with pytest.raises(error):
        segment(source, engine, labels=labels, overlay=Overlay(labels), sinks=sinks)
    assert engine.calls == 3
    assert not list(out.iterdir())


def test_unwritable_target_fails_before_inference(folder: Path, engine: Any, labels: LabelSpec) -> None:
    sink = MaskSink(folder / "a.png" / "m", labels=labels)
    with pytest.raises(UserError, match="cannot be written"):
        segment(open_source(folder), engine, labels=labels, sinks=[sink])
    assert engine.calls == 0


def test_device_side_imports_stay_small() -> None:
    code = (
        "import sys, pkgutil, importlib, pipeline.video, pipeline.runtimes\n"
        "for m in pkgutil.iter_modules(pipeline.video.__path__): importlib.import_module('pipeline.video.' + m.name)\n"
        "heavy = {'torch', 'pydantic', 'onnx', 'dvc', 'rich', 'av', 'onnxruntime', 'tensorrt'} & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
