"""Losses with intervals, compared with sums of the confusion matrices of resampled frames."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation import drops
from pipeline.evaluation.confusion import ConfusionMatrix
from pipeline.evaluation.drops import Drop, FrameCounts, measure

NAMES = ("road", "pole", "car", "tram")


def label_maps(frames: int, *, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(label, float prediction, INT8 prediction) of each frame: every third frame has a pole, no frame has a tram."""
    rng = np.random.default_rng(seed)
    maps = []
    for index in range(frames):
        label = rng.choice([0, 2, 255], size=(6, 9)).astype(np.uint8)
        if index % 3 == 0:
            label[:, 4] = 1
        one, two = label.copy(), label.copy()
        for prediction, share in ((one, 0.1), (two, rng.uniform(0.1, 0.4))):
            wrong = rng.random(label.shape) < share
            prediction[wrong] = rng.integers(0, 3, wrong.sum())
            prediction[prediction == 255] = 0
        maps.append((label, one, two))
    return maps


def matrices(maps: list[tuple[np.ndarray, ...]], which: int) -> list[np.ndarray]:
    return [ConfusionMatrix(num_classes=4, ignore_index=255).add(frame[0], frame[which]) for frame in maps]


def counts(maps: list[tuple[np.ndarray, ...]], which: int) -> FrameCounts:
    return FrameCounts.of(iter(matrices(maps, which)))


@pytest.mark.parametrize("block", [drops.BLOCK, 7 * 24])  # all resamples at once, and seven at a time
def test_intervals_are_those_of_resampled_confusion_matrices(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(drops, "RESAMPLES", 60)
    monkeypatch.setattr(drops, "BLOCK", block)
    drawn: list[np.ndarray] = []
    generator = np.random.default_rng(3)

    class Recorded:
        def integers(self, low: int, high: int, size: tuple[int, int]) -> np.ndarray:
            drawn.append(generator.integers(low, high, size))
            return drawn[-1]

    maps = label_maps(24)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Recorded())
    losses = measure(counts(maps, 1), counts(maps, 2), names=NAMES, confidence=0.9)
    one, two = matrices(maps, 1), matrices(maps, 2)
    lost, mious = [], []
    for indices in np.concatenate(drawn):
        summed = [
            ConfusionMatrix.of(sum(each[index] for index in indices), ignore_index=255).summary() for each in (one, two)
        ]
        pairs = zip(*(summary["per_class_iou"] for summary in summed), strict=True)
        lost.append([np.nan if before is None else before - after for before, after in pairs])
        mious.append(summed[0]["miou"] - summed[1]["miou"])
    assert len(lost) == 60
    for k, name in enumerate(NAMES[:3]):
        bounds = np.nanquantile(np.array(lost)[:, k], [0.05, 0.95])
        assert (losses.classes[name].low, losses.classes[name].high) == pytest.approx(tuple(bounds), abs=3e-4)
    assert (losses.miou.low, losses.miou.high) == pytest.approx(tuple(np.quantile(mious, [0.05, 0.95])), abs=3e-4)


def test_the_figures_are_those_of_the_whole_split() -> None:
    maps = label_maps(24)
    whole = [ConfusionMatrix.of(sum(matrices(maps, which)), ignore_index=255).summary() for which in (1, 2)]
    for confidence in (None, 0.95):
        losses = measure(counts(maps, 1), counts(maps, 2), names=NAMES, confidence=confidence)
        assert losses.miou.got == pytest.approx(whole[0]["miou"] - whole[1]["miou"], abs=2e-4)
        assert list(losses.classes) == ["road", "pole", "car"], "no label contains a tram"
        for k, name in enumerate(NAMES[:3]):
            expected = whole[0]["per_class_iou"][k] - whole[1]["per_class_iou"][k]
            assert losses.classes[name].got == pytest.approx(expected, abs=2e-4)
        assert (losses.classes["pole"].frames, losses.classes["road"].frames, losses.frames) == (8, 24, 24)
        low, got, high = losses.miou.low, losses.miou.got, losses.miou.high
        assert (low == got == high) if confidence is None else (low < got < high)
        assert losses.worst == max(losses.classes.items(), key=lambda item: item[1].got)
    facts = losses.facts(NAMES)
    assert facts["class_frames"] == [24, 8, 24, 0] and facts["classes"][3] is facts["class_intervals"][3] is None
    assert facts["class_intervals"][1] == [losses.classes["pole"].low, losses.classes["pole"].high]


def test_equal_networks_lose_nothing_and_every_run_gives_the_same() -> None:
    maps = label_maps(24)
    same = measure(counts(maps, 2), counts(maps, 2), names=NAMES, confidence=0.95)
    assert all((lost.low, lost.got, lost.high) == (0, 0, 0) for lost in (same.miou, *same.classes.values()))
    first, again = (measure(counts(maps, 1), counts(maps, 2), names=NAMES, confidence=0.95) for _ in range(2))
    assert first == again


def test_more_frames_narrow_the_interval() -> None:
    def width(frames: int) -> float:
        maps = label_maps(frames)
        found = measure(counts(maps, 1), counts(maps, 2), names=NAMES, confidence=0.95).classes["pole"]
        return found.high - found.low

    assert width(400) < 0.4 * width(24)


def test_a_class_of_few_frames_is_not_judged() -> None:
    """INT8 loses the class in all of its five frames: the interval is narrow, but so few frames do not decide."""
    label = np.zeros((40, 2), np.int64)
    label[:, 0] = 100
    label[:5, 1] = 10
    hits = label.copy()
    hits[:5, 1] = 0
    before, after = FrameCounts(label, label, label), FrameCounts(hits, label, hits)
    losses = measure(before, after, names=("road", "pole"), confidence=0.95)
    assert losses.classes["pole"] == Drop(100.0, 100.0, 100.0, frames=5, enough=False)
    assert not losses.classes["pole"].exceeds(5.0) and losses.classes["pole"].undecided(5.0)
    assert losses.classes["pole"].interval is None and losses.facts(("road", "pole"))["class_intervals"][1] is None
    label[5, 1], before.labelled[5, 1] = 10, 10
    six = measure(before, after, names=("road", "pole"), confidence=0.95).classes["pole"]
    assert six.frames == 6 and six.exceeds(5.0) and not six.undecided(5.0)
    assert six.interval == [100.0, 100.0]


def test_one_rare_class_alone_may_be_missing_in_a_resample() -> None:
    label = np.zeros((30, 1), np.int64)
    label[3, 0] = 10
    losses = measure(
        FrameCounts(label, label, label), FrameCounts(label // 2, label, label), names=("pole",), confidence=0.95
    )
    lost = 100 - 100 * 5 / (10 + 10 - 5)  # half of the hits are gone, and as many other pixels are predicted as pole
    assert (losses.miou.low, losses.miou.high) == pytest.approx((lost, lost), abs=1e-3)
    assert not losses.classes["pole"].enough


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.5, 0.9, "kept"),
        (4.2, 5.8, "kept"),  # the interval contains the budget, but is narrower than the budget
        (5.0, 6.0, "kept"),
        (5.1, 5.9, "exceeded"),
        (6.0, 40.0, "exceeded"),  # wide, but completely above the budget
        (-20.0, 5.0, "kept"),  # wide, but completely below the budget
        (-1.0, 12.0, "undecided"),
        (1.0, 6.1, "undecided"),
    ],
)
def test_what_an_interval_decides(low: float, high: float, verdict: str) -> None:
    lost = Drop((low + high) / 2, low, high, frames=50)
    assert (lost.exceeds(5.0), lost.undecided(5.0)) == (verdict == "exceeded", verdict == "undecided")
    few = Drop((low + high) / 2, low, high, frames=2, enough=False)
    assert (few.exceeds(5.0), few.undecided(5.0)) == (False, True)
