"""The IoU that a network loses against another one on the same frames, with its confidence interval.

The interval is a percentile bootstrap over frames (Efron 1979), paired: each resample draws frames with replacement,
and counts both networks on the same ones; therefore effects of a frame on both networks cancel out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: Resamples of the frames. A bound at 95 % depends on the 50 outermost ones.
RESAMPLES = 2000
#: Number of frame weights that are in memory at the same time.
BLOCK = 4_000_000

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FrameCounts:
    """Pixels of every class in every frame, each (frames, K): enough to compute IoU over any choice of frames.

    Attributes:
        hits: labelled and predicted as the class.
        labelled: labelled as the class.
        predicted: predicted as the class, where the label is not ignored.
    """

    hits: Counts
    labelled: Counts
    predicted: Counts

    @classmethod
    def of(cls, matrices: Iterable[Counts]) -> FrameCounts:
        """From the confusion matrix (K, K) [true, predicted] of every frame; one is read at a time."""
        rows = [(np.diag(each), each.sum(axis=1), each.sum(axis=0)) for each in matrices]
        counts = np.array(rows, np.int64).reshape(len(rows), 3, -1 if rows else 0)
        return cls(*counts.transpose(1, 0, 2))

    @property
    def union(self) -> Counts:
        union: Counts = self.labelled + self.predicted - self.hits
        return union


@dataclass(frozen=True)
class Drop:
    """Points of IoU or mIoU lost; negative: gained.

    Attributes:
        got: the loss on all frames.
        low, high: bounds of the interval; both equal ``got`` if no confidence was requested.
        frames: number of frames that contain the class.
        enough: whether this number is enough for an interval.
    """

    got: float
    low: float
    high: float
    frames: int
    enough: bool = True

    @property
    def interval(self) -> list[float] | None:
        """The bounds; None if there are too few frames for meaningful bounds."""
        return [self.low, self.high] if self.enough else None

    def exceeds(self, limit: float) -> bool:
        """Whether the whole interval is above ``limit`` points."""
        return self.enough and self.low > limit

    def undecided(self, limit: float) -> bool:
        """Whether the frames do not decide: too few, or the interval contains the limit and is wider than the limit."""
        wide = self.low <= limit < self.high and self.high - self.low > limit
        return not self.enough or wide


@dataclass(frozen=True)
class Drops:
    """Losses of mIoU and, by name, of each class that occurs in the labels.

    Attributes:
        frames: number of frames measured.
        confidence: of the intervals; None: no intervals.
    """

    miou: Drop
    classes: Mapping[str, Drop]
    frames: int
    confidence: float | None

    @property
    def worst(self) -> tuple[str, Drop]:
        """The class that loses most on all frames."""
        return max(self.classes.items(), key=lambda item: (item[1].got, item[0]))

    def facts(self, names: Sequence[str]) -> dict[str, Any]:
        """For a results file: lists in the order of ``names``; null for a class that does not occur in the labels, and
        for an interval with too few frames (:func:`frames_needed`).
        """
        lost = [self.classes.get(name) for name in names]
        facts: dict[str, Any] = {
            "classes": [drop and drop.got for drop in lost],
            "class_frames": [drop.frames if drop else 0 for drop in lost],
        }
        if self.confidence is not None:
            facts["confidence"] = self.confidence
            facts["miou_interval"] = self.miou.interval
            facts["class_intervals"] = [drop and drop.interval for drop in lost]
        return facts


def frames_needed(confidence: float) -> int:
    """The smallest number of frames that gives an interval for the loss of a class.

    The range of n samples contains the median of their distribution with probability 1 - 2 ** (1 - n) (as in the sign
    test). With fewer frames even the range from the worst to the best frame has less than this confidence, and a
    bootstrap gives a much narrower interval; with one frame its width is 0.

    Example:
        >>> [frames_needed(confidence) for confidence in (0.9, 0.95, 0.99)]
        [5, 6, 8]
    """
    return math.ceil(1 - math.log2(1 - confidence))


def measure(
    before: FrameCounts, after: FrameCounts, *, names: Sequence[str], confidence: float | None, seed: int = 0
) -> Drops:
    """The loss of ``after`` against ``before``, in points.

    Args:
        before, after: of the same frames, in the same order; at least one pixel is labelled.
        names: of the K classes.
        confidence: of the intervals, such as 0.95; None: no intervals.
        seed: of the resamples.
    """
    assert (before.labelled == after.labelled).all(), "both networks are judged by the same labels"
    frames, showing = len(before.labelled), (before.labelled > 0).sum(axis=0)
    present = np.flatnonzero(showing)
    everything = np.ones((1, frames))
    got = _lost(everything, before, after, present)[0]
    if confidence is None:
        low = high = got
        miou_low = miou_high = float(got.mean())
        needed = 0
    else:
        resampled = _resampled(before, after, present, seed=seed)
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        low, high = np.nanquantile(resampled, tails, axis=0)
        shown = ~np.isnan(resampled)
        means = np.nansum(resampled, axis=1)[shown.any(axis=1)] / shown.sum(axis=1)[shown.any(axis=1)]
        miou_low, miou_high = (float(bound) for bound in np.quantile(means, tails))
        needed = frames_needed(confidence)

    def drop(values: Sequence[float], shown: int) -> Drop:
        points = [round(float(value), 4) for value in values]
        return Drop(points[0], points[1], points[2], frames=shown, enough=shown >= needed)

    bounds = np.stack([got, low, high], axis=1).tolist()
    classes = {names[k]: drop(values, int(showing[k])) for k, values in zip(present.tolist(), bounds, strict=True)}
    return Drops(drop([float(got.mean()), miou_low, miou_high], frames), classes, frames, confidence)


def _resampled(before: FrameCounts, after: FrameCounts, present: npt.NDArray[np.intp], *, seed: int) -> Floats:
    """Points lost in every resample, (RESAMPLES, present classes); NaN where a resample lacks the class."""
    rng, frames = np.random.default_rng(seed), len(before.labelled)
    block = max(1, min(RESAMPLES, BLOCK // frames))
    resamples = []
    for start in range(0, RESAMPLES, block):
        count = min(block, RESAMPLES - start)
        drawn = rng.integers(0, frames, (count, frames)) + frames * np.arange(count)[:, np.newaxis]
        weights = np.bincount(drawn.ravel(), minlength=count * frames).reshape(count, frames)
        resamples.append(_lost(weights.astype(np.float64), before, after, present))
    return np.concatenate(resamples)


def _lost(weights: Floats, before: FrameCounts, after: FrameCounts, present: npt.NDArray[np.intp]) -> Floats:
    """Points of IoU lost, (n, present classes), with every frame counted ``weights`` (n, frames) times.

    Sums of pixels are exact in float64, so the result does not depend on the order of addition.
    """

    def total(counts: Counts) -> Floats:
        summed: Floats = weights @ counts[:, present].astype(np.float64)
        return summed

    def iou(counts: FrameCounts) -> Floats:
        ratio: Floats = total(counts.hits) / np.maximum(total(counts.union), 1)
        return ratio

    shown = total(before.labelled) > 0
    lost: Floats = np.where(shown, 100 * (iou(before) - iou(after)), np.nan)
    return lost
