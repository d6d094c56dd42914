"""Confidence in the loop: when engines give it, its place, and its sums in lines, summary and page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.frames import Array
from pipeline.labels import LabelSpec
from pipeline.runtimes import Engine
from pipeline.video.confidence import mean_of, means_by_class, sum_by_id
from pipeline.video.drawing.overlay import Overlay
from pipeline.video.loop import segment
from pipeline.video.pixels import count_ids
from pipeline.video.sinks import ConfidenceSink, LinesSink, MaskSink, Result
from pipeline.video.sinks._figures import Figures, PageSettings
from pipeline.video.sinks.lines import line_of
from pipeline.video.smoothing import Smoother
from pipeline.video.view import Looking, Region
from pipeline.video.zone_file import Zone
from pipeline.video.zones import Zones
from tests.video.fakes import Bars, BrightnessEngine, Kept, quarters


class SureEngine(BrightnessEngine):
    """Its confidence is the green channel: 32, 96, 160 and 224 for ids 0 to 3 of the bars."""

    gives_confidence = True
    confident_calls = 0

    def run_with_confidence(self, frames: Array) -> tuple[Array, Array]:
        self.confident_calls += 1
        return super().run(frames), np.ascontiguousarray(frames[:, ::2, ::2, 1])

    def another(self) -> SureEngine:
        return self


class Reading(Kept):
    """Keeps results, and uses their confidence."""

    reads_confidence = True


@pytest.fixture
def sure() -> SureEngine:
    return SureEngine()


def run(engine: Engine, labels: LabelSpec, count: int = 1, **options: Any) -> tuple[list[Result], Any]:
    sink = Reading()
    summary = segment(Bars(count), [engine], labels=labels, sinks=[sink], **options)
    return sink.results, summary


# when engines give it


def test_a_default_run_does_not_ask_for_confidence(sure: SureEngine, labels: LabelSpec, tmp_path: Path) -> None:
    kept = Kept()
    sinks = [kept, MaskSink(tmp_path / "m", labels=labels)]
    summary = segment(Bars(3), [sure], labels=labels, sinks=sinks, overlay=Overlay(labels))
    assert (sure.calls, sure.confident_calls) == (4, 0), "one is the warm-up"
    assert kept.results[0].confidence is None and kept.results[0].confidence_sums is None
    assert "confidence" not in json.loads(line_of(kept.results[0], labels))
    assert "confidence" not in summary.to_meta() and "mean_confidence" not in summary.to_meta()
    assert "confidence" not in summary.describe()


@pytest.mark.parametrize("asks", ["sink", "overlay"])
def test_a_sink_or_overlay_that_uses_confidence_gets_it(sure: SureEngine, labels: LabelSpec, asks: str) -> None:
    sink = Reading() if asks == "sink" else Kept()
    overlay = Overlay(labels, uncertainty=True) if asks == "overlay" else None
    segment(Bars(3), [sure], labels=labels, sinks=[sink], overlay=overlay)
    assert sure.confident_calls == 3
    assert all(result.confidence is not None for result in sink.results)


def test_an_engine_that_gives_none_is_not_asked(engine: BrightnessEngine, labels: LabelSpec) -> None:
    results, summary = run(engine, labels)
    assert results[0].confidence is None
    assert not {"confidence", "mean_confidence"} & json.loads(line_of(results[0], labels)).keys()
    assert "confidence" not in summary.to_meta()


@pytest.mark.parametrize(("count", "calls"), [(4, 2), (5, 3)])
def test_frames_of_a_batch_keep_their_own(sure: SureEngine, labels: LabelSpec, count: int, calls: int) -> None:
    sure.batches = (2, 2)
    results, _ = run(sure, labels, count)
    assert sure.confident_calls == calls
    for index, result in enumerate(results):
        assert result.confidence is not None
        assert result.confidence[0, ::4].tolist() == np.roll([32, 96, 160, 224], index).tolist()
        assert (result.confidence // 64 == result.label_map).all()


# its place


@pytest.mark.parametrize(
    "looking",
    [
        Looking(),
        Looking(region=Region.parse("32,0,32,48")),
        Looking("letterbox", Region.parse("0,0,64,16")),
        Looking("letterbox", Region.parse("16,0,16,48")),
        Looking("crop", Region.parse("0,0,64,16")),
    ],
)
def test_confidence_has_the_place_of_its_label(sure: SureEngine, labels: LabelSpec, looking: Looking) -> None:
    (result,), _ = run(sure, labels, looking=looking)
    whole, mask = result.full_confidence(), result.full_label_map(255)
    assert whole.shape == mask.shape == (48, 64)
    seen = mask != 255
    assert seen.any()
    assert (whole[seen] // 64 == mask[seen]).all(), "each pixel has the confidence of its own label"
    assert (whole[~seen] == 0).all()
    rows, columns = np.nonzero(seen)
    box = result.box
    assert (rows.min(), columns.min()) == (box.top, box.left)
    assert seen.sum() == box.height * box.width


# its sums


def test_sums_and_means_are_those_of_numpy(labels: LabelSpec) -> None:
    random = np.random.default_rng(0)
    ids = random.choice(np.array([0, 1, 3, 9, 255], np.uint8), (37, 53))
    values = random.integers(0, 256, ids.shape, dtype=np.uint8)
    for label_map, confidence in ((ids, values), (ids[3:20, 5:50], values[3:20, 5:50])):
        sums, pixels = sum_by_id(label_map, confidence), count_ids(label_map)
        for index in range(256):
            assert sums[index] == confidence[label_map == index].sum(dtype=int)
        means = means_by_class(sums, pixels, labels)
        assert list(means) == ["road", "car", "tree"]
        assert means["tree"] == pytest.approx(confidence[label_map == 3].mean() / 255)
        assert mean_of(sums, pixels) == pytest.approx(confidence.mean() / 255)
    assert mean_of(np.zeros(256, np.int64), np.zeros(256, np.int64)) is None


def test_lines_and_summary(sure: SureEngine, labels: LabelSpec) -> None:
    results, summary = run(sure, labels, 3)
    line = json.loads(line_of(results[1], labels))
    assert line["confidence"] == {"road": 0.1255, "car": 0.3765, "sky": 0.6275, "tree": 0.8784}
    assert line["mean_confidence"] == 0.502
    meta = summary.to_meta()
    assert (meta["confidence"], meta["mean_confidence"]) == (line["confidence"], line["mean_confidence"])
    text = summary.describe()
    assert "  confidence\n" in text and "mean confidence: 50.2 %" in text
    assert [row.split()[3:] for row in text.splitlines() if row.startswith("tree")] == [["87.8", "%"]]


def test_classes_that_do_not_occur_have_none(sure: SureEngine, labels: LabelSpec) -> None:
    (result,), summary = run(sure, labels, looking=Looking(region=Region.parse("0,0,32,48")))
    line = json.loads(line_of(result, labels))
    assert line["confidence"] == {"road": 0.1255, "car": 0.3765}
    assert line["mean_confidence"] == 0.251
    assert list(summary.confidence) == ["road", "car"]


def test_zones(sure: SureEngine, labels: LabelSpec) -> None:
    left = Zone("left", ((0, 0), (0.5, 0), (0.5, 1), (0, 1)), unit="shares")
    (result,), summary = run(sure, labels, zones=Zones([left], ignore_index=255))
    zone = json.loads(line_of(result, labels))["zones"]["left"]
    assert (zone["confidence"], zone["mean_confidence"]) == ({"road": 0.1255, "car": 0.3765}, 0.251)
    assert summary.to_meta()["zones"]["left"]["confidence"] == zone["confidence"]


def test_ignored_zones_do_not_count(sure: SureEngine, labels: LabelSpec, tmp_path: Path) -> None:
    # the three bars on the right and the lower half of the first
    bonnet = Zone("bonnet", ((16, 0), (64, 0), (64, 48), (0, 48), (0, 24), (16, 24)), ignored=True)
    everything = Zone("all", ((0, 0), (1, 0), (1, 1), (0, 1)), unit="shares")
    zones = Zones([bonnet, everything], ignore_index=255)
    (result,), summary = run(sure, labels, zones=zones)
    line = json.loads(line_of(result, labels))
    for facts in (line, line["zones"]["all"], summary.to_meta()):
        assert (facts["confidence"], facts["mean_confidence"]) == ({"road": 0.1255}, 0.1255)
    whole = result.full_confidence()
    assert (whole[:24, :16] == 32).all()
    assert (whole[24:] == 0).all() and (whole[:, 16:] == 0).all()


def test_a_smoothed_label_has_the_confidence_of_the_network(labels: LabelSpec) -> None:
    class Flickering(SureEngine):
        def run_with_confidence(self, frames: Array) -> tuple[Array, Array]:
            label_maps, confidence = super().run_with_confidence(frames)
            new = self.confident_calls == 8  # car, in one frame
            return np.full_like(label_maps, int(new)), np.full_like(confidence, 100 if new else 200)

    sink = Reading()
    source = Bars(8, image=lambda index: quarters())
    segment(source, [Flickering()], labels=labels, sinks=[sink], smoother=Smoother(frames=5))
    last = sink.results[-1]
    assert (last.label_map == 0).all()
    assert json.loads(line_of(last, labels))["confidence"] == {"road": 0.3922}


# the page


def test_figures_of_the_page(make_result: Callable[..., Result], labels: LabelSpec) -> None:
    figures = Figures(PageSettings(labels, "x", only=[1, 2, 3]))
    figures.note(make_result())
    assert "confidence" not in figures.now()
    confidence = np.array([[255, 255, 255, 255, 51, 153, 255, 9]], np.uint8)
    sums = sum_by_id(make_result().label_map, confidence)
    figures.note(make_result(confidence=confidence, confidence_sums=sums))
    assert figures.now()["confidence"] == [0.4, 1.0, None]


def test_sinks_that_read_confidence() -> None:
    assert ConfidenceSink.reads_confidence and LinesSink.reads_confidence
