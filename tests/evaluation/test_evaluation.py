"""mIoU and latency, compared with cases counted by hand and with plain loops."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.evaluation import latency
from pipeline.evaluation.accuracy import predicted, read_ahead
from pipeline.evaluation.confusion import ConfusionMatrix
from pipeline.evaluation.scoring import evaluate
from pipeline.frames import Array, resize_frame, resize_label_map
from pipeline.labels import LabelSpec
from pipeline.runtimes import Engine


def test_iou_equals_plain_loops() -> None:
    rng = np.random.default_rng(0)
    matrix = ConfusionMatrix(num_classes=4, ignore_index=255)
    inter, union = np.zeros(4), np.zeros(4)
    for _ in range(3):
        label = rng.choice([0, 1, 2, 255], size=(5, 7)).astype(np.uint8)
        prediction = rng.integers(0, 4, size=(5, 7)).astype(np.uint8)
        matrix.add(label, prediction)
        for true, got in zip(label.ravel().tolist(), prediction.ravel().tolist(), strict=True):
            if true != 255:
                for k in range(4):
                    inter[k] += true == k and got == k
                    union[k] += true == k or got == k
    iou = matrix.iou()
    np.testing.assert_allclose(iou[:3], inter[:3] / union[:3])
    assert np.isnan(iou[3]), "class 3 is in no label, so it has no IoU even though it was predicted"
    summary = matrix.summary()
    assert summary["per_class_iou"][3] is None
    assert summary["miou"] == pytest.approx(100 * np.mean(inter[:3] / union[:3]), abs=1e-4)


def test_miou_is_over_the_split_not_over_images() -> None:
    """One image is completely right, one completely wrong: IoU of class 0 is 3 / (3 + 1), not the mean of 1 and 0."""
    matrix = ConfusionMatrix(num_classes=2, ignore_index=255)
    matrix.add(np.zeros((1, 3), np.uint8), np.zeros((1, 3), np.uint8))
    matrix.add(np.zeros((1, 1), np.uint8), np.ones((1, 1), np.uint8))
    assert matrix.iou()[0] == 0.75


def test_confusion_refuses_invalid_shapes_and_ids() -> None:
    matrix = ConfusionMatrix(num_classes=2, ignore_index=255)
    with pytest.raises(UserError, match="resize the prediction"):
        matrix.add(np.zeros((2, 2), np.uint8), np.zeros((1, 2), np.uint8))
    with pytest.raises(UserError, match=r"id 7.*allowed: 0\.\.1"):
        matrix.add(np.zeros((1, 2), np.uint8), np.full((1, 2), 7, np.uint8))


class Fixed(Engine):
    """An engine that returns the brightness of the frame as labels, at half size, after ``pause`` seconds."""

    input_size = (4, 8)
    output_size = (2, 4)

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause
        self.calls = 0

    def run(self, frames: Array) -> Array:
        self.calls += 1
        time.sleep(self.pause)
        return (frames[:, ::2, ::2, 0] > 100).astype(np.uint8)


class Frames:
    """Two frames of 8x16, left half dark and right half bright, with labels that agree."""

    names = ("a", "b")
    label = np.repeat(np.array([[0] * 8 + [1] * 8], np.uint8), 8, axis=0)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        assert 0 <= index < 2
        return np.repeat(self.label[:, :, None] * 200, 3, axis=2).astype(np.uint8), self.label


def test_evaluate_scores_at_label_size_and_keeps_predictions() -> None:
    labels = LabelSpec(names=("dark", "bright"), palette=((0, 0, 0), (255, 255, 255)))
    seen: list[int] = []
    score = evaluate(Fixed(), Frames(), labels=labels, keep=["b"], progress=lambda: seen.append(1))  # type: ignore[arg-type]
    assert score.summary == {"miou": 100.0, "per_class_iou": [100.0, 100.0]}
    assert (
        score.frames.hits.tolist()
        == score.frames.labelled.tolist()
        == score.frames.predicted.tolist()
        == [[64, 64]] * 2
    )
    assert score.objects.found.tolist() == score.objects.total.tolist() == [[0, 0, 2], [0, 0, 2]]
    assert list(score.kept) == ["b"] and len(seen) == 2
    np.testing.assert_array_equal(score.kept["b"], Frames.label)


def test_a_split_without_frames_has_no_iou() -> None:
    labels = LabelSpec(names=("dark", "bright"), palette=((0, 0, 0), (255, 255, 255)))
    score = evaluate(Fixed(), Noise(0), labels=labels)  # type: ignore[arg-type]
    assert score.summary == {"miou": None, "per_class_iou": [None, None]} and len(score.frames.hits) == 0


def test_matrices_of_parts_sum_to_the_matrix_of_the_split() -> None:
    parts = [counted(Fixed(), Frames(), [index]).counts for index in (0, 1)]
    whole = counted(Fixed(), Frames(), [0, 1])
    assert parts[0].tolist() == [[64, 0], [0, 64]] and whole.counts.tolist() == [[128, 0], [0, 128]]
    summed = ConfusionMatrix.of(parts[0] + parts[1], ignore_index=255)
    assert summed.summary() == whole.summary() == {"miou": 100.0, "per_class_iou": [100.0, 100.0]}


def test_pairs_of_ids_are_counted_as_label_maps_are() -> None:
    rng = np.random.default_rng(1)
    label = rng.choice([0, 1, 3, 255], (9, 11)).astype(np.uint8)
    prediction = rng.integers(0, 4, (9, 11), dtype=np.uint8)
    pairs = np.zeros((256, 256), np.int64)
    np.add.at(pairs, (label, prediction), 1)
    by_map, by_pairs = (ConfusionMatrix(num_classes=4, ignore_index=255) for _ in range(2))
    assert by_pairs.add_pairs(pairs.copy()).tolist() == by_map.add(label, prediction).tolist()
    assert by_pairs.add_pairs(pairs.copy()).sum() == (label != 255).sum()
    assert by_pairs.counts.tolist() == (2 * by_map.counts).tolist()
    pairs[7, 1] = 1
    with pytest.raises(UserError, match=r"id 7 among labels or predictions; allowed: 0\.\.3"):
        by_pairs.add_pairs(pairs)


def counted(engine: Engine, split: Any, indices: Sequence[int]) -> ConfusionMatrix:
    matrix = ConfusionMatrix(num_classes=2, ignore_index=255)
    for _, label, prediction in predicted(engine, split, indices):
        matrix.add(label, prediction)
    return matrix


class Noise:
    """Random frames and labels of 6 x 10; it counts the frames read and fails at frame ``broken``."""

    def __init__(self, length: int, broken: int = -1) -> None:
        self.names = [str(index) for index in range(length)]
        self.broken, self.read = broken, 0

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        self.read += 1
        if index == self.broken:
            raise UserError("frame 3 cannot be read")
        rng = np.random.default_rng(index)
        return rng.integers(0, 256, (6, 10, 3), dtype=np.uint8), rng.integers(0, 2, (6, 10), dtype=np.uint8)


def split_of(length: int, broken: int = -1) -> Any:
    return Noise(length, broken)


@pytest.mark.parametrize("indices", [range(20), [*range(7, 20), *range(7)]])
def test_reading_ahead_changes_no_prediction_and_no_order(indices: Sequence[int]) -> None:
    engine, split = Fixed(), split_of(20)
    seen = list(predicted(engine, split, indices))
    assert [index for index, _, _ in seen] == list(indices)
    for index, label, prediction in seen:
        frame, expected = split[index]
        assert np.array_equal(label, expected)
        labels = engine.run(resize_frame(frame, (4, 8))[None])[0]
        assert np.array_equal(prediction, resize_label_map(labels, (6, 10)))


@pytest.mark.parametrize("threads", [2, 5])
def test_several_threads_read_the_same_in_the_same_order(threads: int) -> None:
    split = split_of(23)
    alone = read_ahead(split, range(23), (4, 8))
    for one, other in zip(alone, read_ahead(split, range(23), (4, 8), threads=threads), strict=True):
        assert one[0] == other[0]
        assert all(np.array_equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))


@pytest.mark.parametrize(("threads", "most"), [(1, 6), (4, 10)])
def test_few_frames_are_read_ahead_and_an_unreadable_one_stops_the_run(threads: int, most: int) -> None:
    split = split_of(40)
    ahead = [split.read - index for index, _, _ in read_ahead(split, range(40), (4, 8), threads=threads)]
    assert max(ahead) <= most, "memory does not grow with the split"
    with pytest.raises(UserError, match="frame 3 cannot be read"):
        list(read_ahead(split_of(9, broken=3), range(9), (4, 8), threads=threads))


@pytest.mark.parametrize("counts", [np.zeros((2, 3), int), np.zeros((2, 2)), np.array([[1, 0], [0, -1]])])
def test_invalid_counts_are_refused(counts: np.ndarray) -> None:
    with pytest.raises(UserError, match="needs integers >= 0"):
        ConfusionMatrix.of(counts, ignore_index=255)


def test_latency_interleaves_and_ranks() -> None:
    slow, fast = Fixed(0.004), Fixed(0.001)
    frames = [np.zeros((4, 8, 3), np.uint8)]
    timing = latency.measure({"slow": slow, "fast": fast}, frames, warmup=2, runs=12)
    assert slow.calls == fast.calls == 14
    assert timing["slow"]["n"] == 12
    assert timing["slow"]["p50"] >= 4.0 > timing["fast"]["p50"] >= 1.0
    assert timing["slow"]["p50"] <= timing["slow"]["p90"] <= timing["slow"]["p99"]


def test_percentiles_are_nearest_rank() -> None:
    summary = latency.summary(np.array([5.0, 1.0, 2.0, 4.0, 3.0]))
    assert (summary["p50"], summary["p90"], summary["p99"]) == (3.0, 5.0, 5.0)
    assert summary["cov"] == pytest.approx(np.std([1, 2, 3, 4, 5]) / 3, abs=1e-3)


def test_latency_is_measured_for_the_given_seconds() -> None:
    engine = Fixed(0.001)
    timing = latency.measure({"one": engine}, [np.zeros((4, 8, 3), np.uint8)], warmup=1, runs=2, seconds=0.1)
    assert 20 < timing["one"]["n"] < 100
    assert timing["one"]["n"] == engine.calls - 1


def test_drift_is_the_last_third_against_the_first() -> None:
    samples = np.concatenate([np.full(30, 2.0), np.full(30, 9.0), np.full(30, 2.5)])
    assert latency.summary(samples)["drift"] == 0.25
    assert latency.summary(samples[::-1].copy())["drift"] == -0.2
    assert latency.summary(np.array([3.0]))["drift"] == 0.0


class Timed(Fixed):
    """An engine that reports the time of each run on the GPU: 1, 2, 3, ... ms."""

    def run(self, frames: Array) -> Array:
        labels = super().run(frames)
        self.device_ms = float(self.calls)
        return labels


def test_the_time_on_the_gpu_is_reported_beside_the_time_of_the_whole_run() -> None:
    frames = [np.zeros((4, 8, 3), np.uint8)]
    timing = latency.measure({"cpu": Fixed(), "gpu": Timed(0.001)}, frames, warmup=3, runs=11)
    assert "device" not in timing["cpu"]
    device = timing["gpu"]["device"]  # runs 4 to 14, without the warm-up
    assert (device["min"], device["p50"], device["p99"], device["n"]) == (4.0, 9.0, 14.0, 11)
    assert device["cov"] == pytest.approx(np.std(np.arange(4, 15)) / 9, abs=1e-4)
    assert 1.0 <= timing["gpu"]["p50"] < device["p50"]


@pytest.mark.parametrize(("spread", "unstable"), [(0.0249, []), (0.0252, ["gpu"])])
def test_the_gpu_has_the_limit_of_trtexec(spread: float, unstable: list[str]) -> None:
    device = latency.summary(np.array([1 - spread, 1 + spread] * 50))
    assert device["cov"] == pytest.approx(spread)
    whole = latency.summary(np.ones(100))
    timings = {"cpu": whole, "gpu": {**whole, "device": device}}
    assert latency.unstable(timings, cov=0.3, drift=0.05) == unstable
