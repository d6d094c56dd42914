"""What INT8 costs each class, as rows of the page: IoU lost with its interval, and how many objects are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.reporting.measured import SIZES, Interval, Result


@dataclass(frozen=True)
class Found:
    """Objects of one size: how many there are, and the percentage that float and INT8 find; None without objects."""

    count: int
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Row:
    """One class.

    ``state`` says whether its budget is broken or undecided; ``found`` is in the order of sizes, empty if not counted.
    """

    name: str
    frames: int
    lost: float
    interval: Interval | None
    state: Literal["", "broken", "undecided"]
    found: Sequence[Found]


def rows(result: Result) -> list[Row]:
    """Classes that the labels show, the largest loss first; none where an earlier version measured."""
    undecided = {note.class_name for note in result.undecided}
    broken = {violation.class_name for violation in result.violations}
    drop, made = result.drop, []
    for k, (name, lost) in enumerate(zip(result.classes, drop.classes, strict=False)):
        if lost is None:
            continue
        made.append(
            Row(
                name=name,
                frames=int(drop.class_frames[k] or 0) if drop.class_frames else 0,
                lost=lost,
                interval=drop.class_intervals[k] if drop.class_intervals else None,
                state="broken" if name in broken else "undecided" if name in undecided else "",
                found=_found(result, k),
            )
        )
    return sorted(made, key=lambda row: (-row.lost, row.name))


def _found(result: Result, k: int) -> list[Found]:
    counts, before, after = result.objects.counts, result.objects.recall_float, result.objects.recall_int8
    if not (counts and before and after):
        return []
    return [Found(int(counts[k][size] or 0), before[k][size], after[k][size]) for size in range(len(SIZES))]
