"""The key numbers at the top of the page: what one student gains and loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.reporting import wording
from pipeline.reporting.measured import Drop, Result
from pipeline.reporting.wording import NOT_MEASURED, factor, fixed, megabytes, milliseconds, signed


@dataclass(frozen=True)
class Tile:
    """A key number of the page: title, value, a note with its sources, and warnings (``marks``)."""

    title: str
    value: str
    note: str
    marks: Sequence[str] = ()


def of(best: Result, base: Result | None) -> list[Tile]:
    """The tiles of a student.

    Args:
        best: the student.
        base: the student without a teacher, to compare with; None: not measured.
    """
    drop, fp32, int8 = best.drop, best.fp32, best.int8
    tiles = [
        Tile("INT8 mIoU", fixed(int8.miou), f"float {fixed(best.reference.miou)}, teacher {fixed(best.teacher.miou)}"),
        Tile("INT8 against float", _change(drop.versus_float), f"mIoU points{_bounds(drop)}"),
        Tile(
            "Speed-up",
            factor(best.speedup),
            f"{_from_to(milliseconds(fp32.latency.p50), milliseconds(int8.latency.p50), 'ms')}, median",
            wording.speed_marks(best),
        ),
        Tile(
            "Size reduction",
            factor(best.shrink),
            _from_to(megabytes(fp32.size_bytes), megabytes(int8.size_bytes), "MB"),
        ),
        Tile("Worst class", _change(drop.worst_class_drop), f"IoU points, {wording.worst_with_confidence(best)}"),
    ]
    if base is not None and base is not best and base.int8.miou is not None and int8.miou is not None:
        gain = signed(int8.miou - base.int8.miou)
        tiles.append(Tile("Distillation", gain, f"mIoU points over {base.label}, both INT8"))
    return tiles


def _change(drop: float | None) -> str:
    return NOT_MEASURED if drop is None else signed(-drop)


def _bounds(drop: Drop) -> str:
    """``, −0.1 to 0.0 with 95% confidence``; empty where no interval was computed."""
    if drop.miou_interval is None:
        return ""
    low, high = drop.miou_interval
    return f", {wording.signed_interval((-high, -low))} with {wording.confidence(drop.confidence)} confidence"


def _from_to(before: str, after: str, unit: str) -> str:
    return NOT_MEASURED if NOT_MEASURED in (before, after) else f"{before} \N{RIGHTWARDS ARROW} {after} {unit}"
