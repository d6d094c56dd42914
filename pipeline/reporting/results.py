"""Loading of ``results/<student>.json``, which `check` and bundles write.

Values that were not measured may be missing (a key, a variant) or null. Other problems raise a :class:`UserError`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.reporting import comparison, json_file
from pipeline.reporting.measured import Drop, Result

AGAIN = "measure again with: dvc repro -f check (results of a device: run its bundle again)"


def load(folder: Path, *, expected: Sequence[str] = ()) -> list[Result]:
    """Read every student's ``*.json`` of ``folder``: the baseline (loss ``none``) first, then by student name.

    Args:
        folder: where `check` writes its results.
        expected: names of students; the result of a student without a file has no values.

    Raises:
        UserError: no such folder, an invalid file, or two files on one student and device.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; measure the students first with: dvc repro check")
    results: list[Result] = []
    files: dict[tuple[str, str], Path] = {}
    for file in sorted(set(folder.glob("*.json")) - set(comparison.files(folder))):
        result = read(file)
        key = (result.student, result.device.get("id", ""))
        if key in files:
            raise UserError(f"{file} and {files[key]} both hold student '{result.student}'; delete the older one")
        files[key] = file
        results.append(result)
    students = [result.student for result in results]
    results += [Result(student=name, label=name) for name in dict.fromkeys(expected) if name not in students]
    results = [
        result.model_copy(update={"label": f"{result.student} @ {result.device.get('id', '?')}"})
        if students.count(result.student) > 1
        else result
        for result in results
    ]
    return sorted(results, key=lambda result: (result.loss != "none", result.student, result.label))


def of(students: Collection[str], results: Sequence[Result]) -> list[Result]:
    """The results of these students: files of students that are no longer in params.yaml are not reported."""
    return [result for result in results if result.student in students]


def read(file: Path) -> Result:
    """Read one results file. Raises UserError with all its problems."""
    result = json_file.read(Result, file, advice=AGAIN)
    before, after = result.fp32.latency.p50, result.int8.latency.p50
    speedup = before / after if before and after else None
    computed = {"label": result.student, "drop": _drop(result), "speedup": _first(result.speedup, speedup)}
    return result.model_copy(update=computed)


def _drop(result: Result) -> Drop:
    """The drop as recorded, else computed from the variants and the teacher where they were measured."""
    drop, reference, int8 = result.drop, result.reference, result.int8
    worst, worst_drop = drop.worst_class, drop.worst_class_drop
    if worst_drop is None or not worst:
        classes = zip(result.classes, reference.per_class_iou, int8.per_class_iou, strict=False)
        drops = [(before - after, name) for name, before, after in classes if before is not None and after is not None]
        worst_drop, worst = max(drops, key=lambda loss: loss[0]) if drops else (None, "")
    computed = {
        "versus_float": _first(drop.versus_float, _minus(reference.miou, int8.miou)),
        "versus_teacher": _first(drop.versus_teacher, _minus(result.teacher.miou, int8.miou)),
        "worst_class": worst,
        "worst_class_drop": worst_drop,
    }
    return drop.model_copy(update=computed)


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _first(recorded: float | None, computed: float | None) -> float | None:
    return computed if recorded is None else recorded
