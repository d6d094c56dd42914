"""The cost of INT8 per class, as rows of the page: IoU lost with its interval, and the objects that INT8 finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.reporting.measured import SIZES, Interval, Result


@dataclass(frozen=True)
class ObjectsFound:
    """Objects of one size: their number, and the percentage that float and INT8 find; None where there are none."""

    count: int
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Row:
    """One class.

    ``state`` says whether its budget is broken or undecided; ``objects`` has one entry per size, if counted.
    """

    name: str
    frames: int
    lost: float
    interval: Interval | None
    state: Literal["", "broken", "undecided"]
    objects: Sequence[ObjectsFound]


def rows(result: Result) -> list[Row]:
    """Classes that occur in the labels, the largest loss first; none for files of versions without these values."""
    undecided = {note.class_name for note in result.undecided}
    broken = {violation.class_name for violation in result.violations}
    drop, table = result.drop, []
    for k, (name, lost) in enumerate(zip(result.classes, drop.classes, strict=False)):
        if lost is None:
            continue
        table.append(
            Row(
                name=name,
                frames=(drop.class_frames[k] or 0) if drop.class_frames else 0,
                lost=lost,
                interval=drop.class_intervals[k] if drop.class_intervals else None,
                state="broken" if name in broken else "undecided" if name in undecided else "",
                objects=_objects(result, k),
            )
        )
    return sorted(table, key=lambda row: (-row.lost, row.name))


def _objects(result: Result, k: int) -> list[ObjectsFound]:
    counts, before, after = result.objects.counts, result.objects.recall_float, result.objects.recall_int8
    if not (counts and before and after):
        return []
    return [ObjectsFound(counts[k][size] or 0, before[k][size], after[k][size]) for size in range(len(SIZES))]
