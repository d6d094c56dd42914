"""Loading of ``results/<student>.json``, which `check` writes.

Tolerant of what was not measured (a missing key, a null, a missing variant), strict about damage: no JSON, a wrong type
or an impossible value is a :class:`UserError` that names the file.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import Faults, UserError
from pipeline.reporting import comparison
from pipeline.reporting.fields import Fields
from pipeline.reporting.measured import (
    SIZES,
    VARIANTS,
    Drop,
    Latency,
    Layer,
    Note,
    Objects,
    Result,
    Teacher,
    Variant,
    Violation,
)


def load(folder: Path, *, expected: Sequence[str] = ()) -> list[Result]:
    """Read every student's ``*.json`` of ``folder``: the baseline (loss ``none``) first, then by student name.

    Args:
        folder: where `check` writes its results.
        expected: students that should be there; those without a file are listed with nothing measured.

    Raises:
        UserError: no such folder, a damaged file, or two files on one student and device.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; measure the students first with: dvc repro check")
    results: list[Result] = []
    origin: dict[tuple[str, str], Path] = {}
    for path in sorted(set(folder.glob("*.json")) - {folder / comparison.FILE}):
        result = read(path)
        key = (result.student, result.device.get("id", ""))
        if key in origin:
            raise UserError(f"{path} and {origin[key]} both hold student '{result.student}'; delete the stale one")
        origin[key] = path
        results.append(result)
    there = [result.student for result in results]
    results += [Result(student=name, label=name) for name in dict.fromkeys(expected) if name not in there]
    results = [
        replace(result, label=f"{result.student} @ {result.device.get('id', '?')}")
        if there.count(result.student) > 1
        else result
        for result in results
    ]
    return sorted(results, key=lambda result: (result.loss != "none", result.student, result.label))


def of(students: Collection[str], results: Sequence[Result]) -> list[Result]:
    """The results of these students: a file that an earlier params.yaml left behind is not reported."""
    return [result for result in results if result.student in students]


def read(path: Path) -> Result:
    """Read one results file. Raises UserError naming it, with all its faults, when it is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a results file ({error}); measure again with: dvc repro -f check") from error
    faults = Faults(str(path))
    if not isinstance(data, dict):
        faults.add(f"got a {type(data).__name__}; a results file is one JSON object")
        data = {"student": path.stem}
    result = _result(Fields(data, faults))
    faults.raise_if_any(advice="measure again with: dvc repro -f check")
    return result


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no measurement")


def _result(top: Fields) -> Result:
    student = top.text("student")
    if not student:
        top.fault("student", "missing; every results file names its student")
    classes = top.texts("classes")
    teacher = top.section("teacher")
    device = top.section("device").data
    variants = {
        name: _variant(name, top.section("variants").section(name), len(classes))
        for name in _in_order(top.section("variants").data)
    }
    result = Result(
        student=student,
        label=student,
        loss=top.text("loss"),
        dataset=top.text("dataset"),
        dataset_sha256=top.text("dataset_sha256"),
        split=top.text("split"),
        images=top.integer("images"),
        classes=classes,
        absent_classes=top.texts("absent_classes"),
        model=top.text("model"),
        parameters=top.integer("parameters"),
        input_size=top.integers("input_size"),
        device={str(key): str(value) for key, value in device.items() if value is not None},
        teacher=Teacher(
            miou=teacher.percent("miou"),
            per_class_iou=teacher.percents("per_class_iou", len(classes)),
            parameters=teacher.integer("parameters"),
            model=teacher.text("model"),
        ),
        variants=variants,
        speedup=top.number("speedup_int8_vs_fp32"),
        unstable=top.texts("unstable"),
        layers=_layers(top.section("quantization")),
        aware=bool(top.section("quantization").section("quantization_aware").data),
        passed=top.flag("passed"),
        violations=tuple(
            Violation(
                budget=item.text("budget"),
                variant=item.text("variant"),
                limit=item.number("limit"),
                got=item.number("got"),
                what=item.text("what") or f"budget {item.text('budget')} is not kept",
                class_name=item.text("class"),
            )
            for item in top.items("violations")
        ),
        undecided=_notes(top, "undecided"),
        warnings=_notes(top, "warnings"),
        objects=_objects(top.section("objects"), len(classes)),
    )
    return _with_comparisons(result, top.section("drop"))


def _variant(name: str, item: Fields, num_classes: int) -> Variant:
    latency = item.section("latency_ms")
    return Variant(
        name=name,
        miou=item.percent("miou"),
        per_class_iou=item.percents("per_class_iou", num_classes),
        size_bytes=item.integer("size_bytes"),
        latency=Latency(
            p50=latency.number("p50", low=0),
            p90=latency.number("p90", low=0),
            p99=latency.number("p99", low=0),
            n=latency.integer("n"),
            cov=latency.number("cov", low=0),
        ),
        sha256=item.text("sha256"),
        runtime=item.text("runtime"),
    )


def _layers(item: Fields) -> tuple[Layer, ...]:
    floats = item.texts("in_float")
    rows = item.items("sensitivity")
    return tuple(
        Layer(
            name=row.text("layer"),
            disagreement=row.percent("disagreement"),
            worst_class=row.text("worst_class"),
            in_float=row.text("layer") in floats,
        )
        for row in rows
    )


def _notes(top: Fields, key: str) -> tuple[Note, ...]:
    return tuple(
        Note(budget=item.text("budget"), what=item.text("what"), class_name=item.text("class"))
        for item in top.items(key)
    )


def _objects(item: Fields, num_classes: int) -> Objects:
    width = len(SIZES)
    counts = item.rows("counts", num_classes, width, low=0)
    recall = [item.rows(key, num_classes, width, low=0, high=100) for key in ("recall_float", "recall_int8")]
    return Objects(*(tuple(row or (None,) * width for row in rows) for rows in (counts, *recall)))


def _in_order(variants: Mapping[str, Any]) -> list[str]:
    """Variants that hold something: the known ones in the order of the pipeline, then the others by name."""
    known = [name for name in VARIANTS if variants.get(name)]
    return known + sorted(name for name in variants if name not in VARIANTS and variants[name])


def _with_comparisons(result: Result, recorded: Fields) -> Result:
    """Add drop and speed-up: as recorded, else worked out from the measurements where both sides are there."""
    reference, int8 = result.reference, result.int8
    worst, worst_drop = recorded.text("worst_class"), recorded.number("worst_class_drop")
    if worst_drop is None or not worst:
        pairs = zip(result.classes, reference.per_class_iou, int8.per_class_iou, strict=False)
        drops = [(before - after, name) for name, before, after in pairs if before is not None and after is not None]
        worst_drop, worst = max(drops, key=lambda drop: drop[0]) if drops else (None, "")
    before, after = result.fp32.latency.p50, int8.latency.p50
    return replace(
        result,
        drop=Drop(
            versus_float=_first(recorded.number("miou_int8_vs_float"), _minus(reference.miou, int8.miou)),
            versus_teacher=_first(recorded.number("miou_int8_vs_teacher"), _minus(result.teacher.miou, int8.miou)),
            worst_class=worst,
            worst_class_drop=worst_drop,
            confidence=recorded.number("confidence", low=0, high=1),
            classes=recorded.numbers("classes", len(result.classes)),
            class_intervals=_intervals(recorded, len(result.classes)),
            class_frames=recorded.numbers("class_frames", len(result.classes), low=0),
        ),
        speedup=_first(result.speedup, before / after if before and after else None),
    )


def _intervals(recorded: Fields, num_classes: int) -> tuple[tuple[float, float] | None, ...]:
    rows = recorded.rows("class_intervals", num_classes, 2)
    return tuple(
        (row[0], row[1]) if row and row[0] is not None and row[1] is not None else None  # the two bounds
        for row in rows
    )


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _first(recorded: float | None, computed: float | None) -> float | None:
    return computed if recorded is None else recorded
