"""Gains of the rows of a comparison over its baseline, paired by seed: of mIoU and of each class, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.reporting import intervals
from pipeline.reporting.comparison import Comparison, Row
from pipeline.reporting.intervals import Difference


@dataclass(frozen=True)
class ClassGain:
    """Points of IoU that one class gains."""

    name: str
    gain: Difference


def of_miou(row: Row, comparison: Comparison) -> Difference | None:
    """Points of mIoU over the baseline, for the weights of the comparison; None for the baseline, or without pairs."""
    base = comparison.baseline
    if base is None or base == row:
        return None
    pairs = zip(row.of(comparison.weights).miou, base.of(comparison.weights).miou, strict=False)
    return intervals.difference([after - before for after, before in pairs if after is not None and before is not None])


def of_classes(row: Row, comparison: Comparison) -> list[ClassGain]:
    """Points of IoU of each class over the baseline; empty for the baseline and for files without IoU of each seed."""
    base = comparison.baseline
    if base is None or base == row:
        return []
    pairs = [
        (after, before)
        for after, before in zip(row.of(comparison.weights).ious, base.of(comparison.weights).ious, strict=False)
        if after and before
    ]
    found = []
    for k, name in enumerate(comparison.classes):
        values = [a - b for after, before in pairs if (a := after[k]) is not None and (b := before[k]) is not None]
        if (gain := intervals.difference(values)) is not None:
            found.append(ClassGain(name, gain))
    return found


def best(comparison: Comparison) -> Row | None:
    """The row with the highest gain over the baseline, if any has a gain."""
    known = [(gain.mean, row) for row in comparison.rows if (gain := of_miou(row, comparison)) is not None]
    return max(known, key=lambda each: each[0])[1] if known else None
