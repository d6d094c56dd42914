"""What `check` measured: ``results/<student>.json`` as frozen values.

Tolerant of what was not measured (a missing key, a null, a missing variant become None and print as "not measured"),
strict about damage: no JSON, a wrong type or an impossible value is a :class:`UserError` that names the file.
All mIoU and IoU are percent (0..100), latencies milliseconds, sizes bytes; a drop is positive when something was lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import Faults, UserError
from pipeline.reporting.fields import Fields

VARIANTS = ("torch", "fp32", "fp16", "int8")
Verdict = Literal["pass", "fail", "not measured"]


@dataclass(frozen=True)
class Latency:
    """Percentiles in ms over ``n`` samples; ``cov`` is standard deviation / mean."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    n: int | None = None
    cov: float | None = None


@dataclass(frozen=True)
class Variant:
    """One file that was measured; ``per_class_iou`` is empty when not measured, None for a class absent from the truth."""

    name: str
    miou: float | None = None
    per_class_iou: tuple[float | None, ...] = ()
    size_bytes: int | None = None
    latency: Latency = Latency()
    sha256: str = ""
    runtime: str = ""


@dataclass(frozen=True)
class Teacher:
    miou: float | None = None
    per_class_iou: tuple[float | None, ...] = ()
    parameters: int | None = None
    model: str = ""


@dataclass(frozen=True)
class Violation:
    """A budget that was not kept; ``what`` says it in words."""

    budget: str
    variant: str
    limit: float | None
    got: float | None
    what: str


@dataclass(frozen=True)
class Drop:
    """What INT8 costs, in mIoU or IoU points, as `check` recorded it."""

    versus_float: float | None = None
    versus_teacher: float | None = None
    worst_class: str = ""
    worst_class_drop: float | None = None


@dataclass(frozen=True)
class Result:
    """Everything one results file says about one student on one device; ``label`` names it in tables and figures."""

    student: str
    label: str
    loss: str = ""
    dataset: str = ""
    split: str = ""
    images: int | None = None
    classes: tuple[str, ...] = ()
    absent_classes: tuple[str, ...] = ()
    model: str = ""
    parameters: int | None = None
    input_size: tuple[int, ...] = ()
    device: Mapping[str, str] = field(default_factory=dict)
    teacher: Teacher = Teacher()
    variants: Mapping[str, Variant] = field(default_factory=dict)
    drop: Drop = Drop()
    speedup: float | None = None
    unstable: tuple[str, ...] = ()
    passed: bool | None = None
    violations: tuple[Violation, ...] = ()

    def variant(self, name: str) -> Variant:
        """The variant, or one in which nothing is measured."""
        return self.variants.get(name, Variant(name=name))

    @property
    def int8(self) -> Variant:
        return self.variant("int8")

    @property
    def fp32(self) -> Variant:
        return self.variant("fp32")

    @property
    def reference(self) -> Variant:
        """The float version whose accuracy INT8 is compared with: torch, else the fp32 graph."""
        return self.variant("torch") if self.variant("torch").miou is not None else self.fp32

    @property
    def shrink(self) -> float | None:
        """Size of the fp32 file over size of the INT8 file."""
        before, after = self.fp32.size_bytes, self.int8.size_bytes
        return before / after if before and after else None

    @property
    def verdict(self) -> Verdict:
        """``pass`` only where INT8 was measured and no budget is broken."""
        if self.passed is False or self.violations:
            return "fail"
        return "pass" if self.passed and self.int8.miou is not None else "not measured"

    def speed_is_unstable(self) -> bool:
        """Whether a latency that the speed-up rests on spread too much."""
        return "int8" in self.unstable or "fp32" in self.unstable


def load(folder: Path, *, expected: Sequence[str] = ()) -> list[Result]:
    """Read every ``*.json`` of ``folder``: the baseline (loss ``none``) first, then by student name.

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
    for path in sorted(folder.glob("*.json")):
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
        passed=top.flag("passed"),
        violations=tuple(
            Violation(
                budget=item.text("budget"),
                variant=item.text("variant"),
                limit=item.number("limit"),
                got=item.number("got"),
                what=item.text("what") or f"budget {item.text('budget')} is not kept",
            )
            for item in top.items("violations")
        ),
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


def _in_order(variants: Mapping[str, Any]) -> list[str]:
    """Names of the variants that hold something: the known ones in the order of the pipeline, then the others by name."""
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
        ),
        speedup=_first(result.speedup, before / after if before and after else None),
    )


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _first(recorded: float | None, computed: float | None) -> float | None:
    return computed if recorded is None else recorded
