"""Tables of the model card: sources with their licences, classes, variants and budgets."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.reporting import wording
from pipeline.reporting.columns import Column
from pipeline.reporting.measured import Result, Source, Variant
from pipeline.reporting.wording import NOT_MEASURED, fixed, megabytes, milliseconds

NOT_STATED, NOT_RECORDED = "not stated", "not recorded"
COMMERCIAL = {True: "yes", False: "no", None: "unknown"}
#: Unit of each budget.
UNITS = {
    "miou_drop": "points", "class_drop": "points", "latency_p99_ms": "ms", "size_mb": "MB",
    "min_speedup": "times float32",
}  # fmt: skip


@dataclass(frozen=True)
class Class:
    """Losses of one class; None: not measured, or no image shows the class. IoU in percent."""

    name: str
    float_iou: float | None
    int8_iou: float | None
    lost: float | None
    bounds: tuple[float, float] | None
    frames: int | None


def class_rows(result: Result) -> list[Class]:
    """A row for each class, in train-id order."""
    nothing = (None,) * len(result.classes)
    drop = result.drop
    columns = (
        values or nothing
        for values in (
            result.reference.per_class_iou, result.int8.per_class_iou, drop.classes, drop.class_intervals,
            drop.class_frames,
        )
    )  # fmt: skip
    return [Class(*row) for row in zip(result.classes, *columns, strict=True)]


def _percent(value: float | None) -> str:
    return fixed(value, 2)


SOURCES: tuple[Column[Source], ...] = (
    Column("source", lambda source: source.role, left=True),
    Column("name", lambda source: source.of, left=True),
    Column("licence", lambda source: source.name or NOT_STATED, left=True),
    Column("commercial use", lambda source: COMMERCIAL[source.commercial], left=True),
    Column("terms", lambda source: "; ".join(part for part in (source.note, source.url) if part), left=True),
)
CLASSES: tuple[Column[Class], ...] = (
    Column("class", lambda row: row.name, left=True),
    Column("float IoU", lambda row: _percent(row.float_iou)),
    Column("INT8 IoU", lambda row: _percent(row.int8_iou)),
    Column("points lost", lambda row: _percent(row.lost)),
    Column("interval", lambda row: NOT_MEASURED if row.bounds is None else " to ".join(map(_percent, row.bounds))),
    Column("frames", lambda row: wording.count(row.frames)),
)
VARIANTS: tuple[Column[tuple[str, Variant]], ...] = (
    Column("variant", lambda pair: pair[0], left=True),
    Column("runtime", lambda pair: pair[1].runtime or NOT_RECORDED, left=True),
    Column("mIoU", lambda pair: _percent(pair[1].miou)),
    Column("p50 ms", lambda pair: milliseconds(pair[1].latency.p50)),
    Column("p90 ms", lambda pair: milliseconds(pair[1].latency.p90)),
    Column("p99 ms", lambda pair: milliseconds(pair[1].latency.p99)),
    Column("MB", lambda pair: megabytes(pair[1].size_bytes)),
    Column("sha256", lambda pair: pair[1].sha256[:12] or NOT_RECORDED, left=True),
)
BUDGETS: tuple[Column[tuple[str, float | None]], ...] = (
    Column("budget", lambda pair: pair[0], left=True),
    Column("limit", lambda pair: "none" if pair[1] is None else f"{pair[1]:g} {UNITS.get(pair[0], '')}".strip()),
)
