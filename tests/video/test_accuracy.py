"""Masks of video have exactly the scores that `check` reports for the same frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline import runtimes
from pipeline.evaluation.accuracy import predicted
from pipeline.evaluation.confusion import ConfusionMatrix
from pipeline.frames import read_label_map, write_png
from pipeline.prepared import Split
from pipeline.runtimes import Engine
from pipeline.video.engines import open_engines
from pipeline.video.loop import segment
from pipeline.video.segmenter import Segmenter
from pipeline.video.sinks import MaskSink
from pipeline.video.sources import open_source


@pytest.fixture(scope="module")
def engine_folder(student: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The INT8 student as an engine of this machine."""
    folder: Path = tmp_path_factory.mktemp("engine") / "int8"
    runtime = runtimes.build("onnxruntime", {})
    file = f"{runtime.int8_variant}.onnx"
    runtimes.build_engine(
        runtime,
        student.int8.file(file),
        folder,
        name="onnxruntime",
        options={},
        meta={**student.int8.facts, "precision": "int8", "source": file, "parents": {}},
    )
    return folder


@pytest.fixture(scope="module")
def split(student: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Frames of three sizes with labels that the student gets right in part."""
    root = tmp_path_factory.mktemp("dataset")
    random = np.random.default_rng(0)
    names = []
    for index in range(12):
        size = [(128, 192), (200, 300), (97, 141)][index % 3]
        coarse = random.integers(0, 256, (6, 9, 3), dtype=np.uint8)
        frame = np.kron(coarse, np.ones((size[0] // 6 + 1, size[1] // 9 + 1, 1), np.uint8))[: size[0], : size[1]]
        names.append(f"frame-{index:02d}")
        write_png(root / "val" / "images" / f"{names[-1]}.png", frame)
        write_png(root / "val" / "labels" / f"{names[-1]}.png", random.integers(0, 5, size, dtype=np.uint8))
    return Split(root, "val", names)


def counted(engine: Engine, split: Split, indices: Sequence[int] = range(12)) -> ConfusionMatrix:
    """The counts of `check` over some frames."""
    matrix = ConfusionMatrix(num_classes=5, ignore_index=255)
    for _, label, prediction in predicted(engine, split, indices):
        matrix.add(label, prediction)
    return matrix


@pytest.mark.parametrize("contexts", [1, 2])
def test_masks_score_what_check_reports(
    engine_folder: Path, split: Split, student: SimpleNamespace, tmp_path: Path, contexts: int
) -> None:
    engines, facts = open_engines(engine_folder, threads=2, contexts=contexts)
    reported = counted(engines[0], split)
    source = open_source(str(split.root / "val" / "images"))
    segment(source, engines, labels=facts.labels, sinks=[MaskSink(tmp_path / "masks", labels=facts.labels)])
    scored = ConfusionMatrix(num_classes=5, ignore_index=255)
    for index, name in enumerate(split.names):
        scored.add(split.label(index), read_label_map(tmp_path / "masks" / f"{name}.png"))
    assert np.array_equal(scored.counts, reported.counts)
    assert np.count_nonzero(scored.counts) == 25, "the engine confuses all pairs of classes"


def test_lossless_video_scores_the_same(
    engine_folder: Path, split: Split, student: SimpleNamespace, tmp_path: Path
) -> None:
    """FFV1 keeps BGR to the bit; the frames of one size, as a video."""
    av = pytest.importorskip("av")
    chosen = [index for index in range(len(split)) if index % 3 == 1]
    with av.open(str(tmp_path / "drive.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 200, 300, "bgr0"
        for index in chosen:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(split.frame(index), format="bgr24")))
        container.mux(stream.encode(None))
    engines, facts = open_engines(engine_folder, threads=2)
    reported = counted(engines[0], split, chosen)
    source = open_source(str(tmp_path / "drive.mkv"))
    segment(source, engines, labels=facts.labels, sinks=[MaskSink(tmp_path / "masks", labels=facts.labels)])
    scored = ConfusionMatrix(num_classes=5, ignore_index=255)
    for index, mask in zip(chosen, sorted((tmp_path / "masks").glob("*.png")), strict=True):
        scored.add(split.label(index), read_label_map(mask))
    assert np.array_equal(scored.counts, reported.counts)


def test_frames_of_another_program(engine_folder: Path, split: Split, student: SimpleNamespace) -> None:
    reported = counted(open_engines(engine_folder)[0][0], split)
    scored = ConfusionMatrix(num_classes=5, ignore_index=255)
    with Segmenter(engine_folder, threads=2, contexts=2) as segmenter:
        given = [split.frame(index) for index in range(len(split))]
        for index, (frame, mask) in enumerate(segmenter.stream(iter(given))):
            assert np.array_equal(frame, given[index])
            scored.add(split.label(index), mask)
            assert np.array_equal(mask, segmenter.mask(frame)), "a single frame, while others are processed"
        assert not list(segmenter.stream([]))
    assert np.array_equal(scored.counts, reported.counts)
