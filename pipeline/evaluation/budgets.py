"""The cost of compression, and whether it is within the budgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.evaluation.drops import Drop, Drops, frames_needed

#: INT8 is expected to be faster than float32: below this speed-up there is a warning if `min_speedup` is null.
EXPECTED_SPEEDUP = 1.0
#: The reason names at most this many layers or operators.
NAMED = 4


def drop(
    reference: Mapping[str, Any], int8: Mapping[str, Any], classes: Sequence[str], *, teacher_miou: float | None
) -> dict[str, Any]:
    """Points of mIoU that INT8 loses against float and the teacher, and the class that loses most.

    Args:
        reference: results of the float variant: ``miou`` and ``per_class_iou``.
        int8: results of the INT8 variant.
        classes: names in the order of ``per_class_iou``.
        teacher_miou: None where there is no teacher.

    Returns:
        positive numbers are losses, in percentage points.
    """
    losses = [
        (round(b - a, 4), name)
        for b, a, name in zip(reference["per_class_iou"], int8["per_class_iou"], classes, strict=True)
        if b is not None and a is not None
    ]
    worst, name = max(losses)
    to_teacher = {} if teacher_miou is None else {"miou_int8_vs_teacher": round(teacher_miou - int8["miou"], 4)}
    return {
        "miou_int8_vs_float": round(reference["miou"] - int8["miou"], 4),
        **to_teacher,
        "worst_class": name,
        "worst_class_drop": worst,
    }


def title(variant: str) -> str:
    """The name of a variant in sentences: ``INT8``, ``fp16``."""
    return "INT8" if variant == "int8" else variant


def violations(
    budgets: Mapping[str, float | None],
    drops: Drops,
    measured: Mapping[str, Any],
    speed: Mapping[str, Any] | None = None,
    *,
    variant: str = "int8",
) -> list[dict[str, Any]]:
    """The budgets that a variant breaks; of ``class_drop`` one for each class, the largest loss first.

    A loss breaks its budget when its whole interval is above the budget.

    Args:
        budgets: ``miou_drop`` and ``class_drop`` in points, ``latency_p99_ms``, ``size_mb``, ``min_speedup``; None is
            no limit.
        drops: what the variant loses against the float reference.
        measured: results of the variant: ``size_bytes`` and ``latency_ms``.
        speed: from :func:`speed`, for INT8; None: ``min_speedup`` does not limit the variant.
        variant: its name.
    """
    broken = []
    label = title(variant)

    def add(budget: str, got: float, what: str, **more: Any) -> None:
        broken.append(
            {"budget": budget, "variant": variant, "limit": budgets[budget], "got": got, "what": what, **more}
        )

    for budget, name, lost in _limited(budgets, drops):
        allowed = float(budgets[budget] or 0)
        if lost.exceeds(allowed):
            points = _points(lost, drops)
            whole = f"{label} loses {points} mIoU against float"
            subject = f"class {name} loses {points} IoU in {label}" if name else whole
            add(budget, lost.got, f"{subject}; the budget allows {allowed:g}", **_about(name, lost))
    p99, size_mb = measured["latency_ms"]["p99"], round(measured["size_bytes"] / 1e6, 3)
    for budget, got, what in (
        ("latency_p99_ms", p99, f"{label} takes {p99:g} ms at p99"),
        ("size_mb", size_mb, f"the {label} engine has {size_mb:g} MB"),
    ):
        limit = budgets.get(budget)
        if limit is not None and got > limit:
            add(budget, got, f"{what}; the budget allows {limit:g}")
    least = budgets.get("min_speedup")
    if least is not None and speed is not None and speed["ratio"] < least:
        add("min_speedup", speed["ratio"], f"{speed['what']}; the budget requires {least:g}x. {speed['why']}")
    return broken


def undecided(budgets: Mapping[str, float | None], drops: Drops, *, variant: str = "int8") -> list[dict[str, Any]]:
    """The budgets that the frames cannot decide, in the shape of :func:`violations`: neither kept nor broken.

    Either a class occurs in too few frames (``drops.frames_needed``), or the interval of a loss contains the budget and
    is wider than the budget.
    """
    entries = []
    for budget, name, lost in _limited(budgets, drops):
        limit = float(budgets[budget] or 0)
        if not lost.undecided(limit):
            continue
        lacks = f"not enough pixels of {name}" if name else "not enough frames"
        if lost.enough:
            unit = "IoU" if name else "mIoU"
            why = (
                f"it loses {_points(lost, drops)} {unit} in {title(variant)}, and the budget of {limit:g} lies inside "
                "this interval"
            )
        else:
            assert drops.confidence is not None
            needed = frames_needed(drops.confidence)
            shown = f"{lost.frames} of {drops.frames} frames show it" if name else f"there are {lost.frames}"
            why = f"{shown}, and {100 * drops.confidence:g}% confidence needs {needed}"
        entry = {"budget": budget, "limit": limit, "got": lost.got, "what": f"{lacks}: {why}", **_about(name, lost)}
        entries.append(entry)
    return entries


def speed(fp32: Mapping[str, Any], int8: Mapping[str, Any], *, unstable: Sequence[str], reason: str) -> dict[str, Any]:
    """The speed-up of INT8 against float32 at p50, as a number and in words.

    Args:
        fp32, int8: latencies.
        unstable: variants whose latency is unstable.
        reason: why INT8 may be slow here.

    Returns:
        ``ratio``; ``what``: the measurement as a sentence; ``why``: the reason as a sentence.
    """
    ratio = round(float(fp32["p50"]) / float(int8["p50"]), 3)
    times = f"{float(int8['p50']):.4g} ms against {float(fp32['p50']):.4g} ms at p50"
    if {"fp32", "int8"}.intersection(unstable):
        times += "; latency unstable, measure again on a machine without other work"
    slower = f"INT8 is not faster than float32 ({ratio:.2f}x: {times})"
    what = slower if ratio <= EXPECTED_SPEEDUP else f"INT8 is only {ratio:.2f}x as fast as float32 ({times})"
    return {"ratio": ratio, "what": what, "why": reason}


def warnings(budgets: Mapping[str, float | None], speed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Problems that break no budget: INT8 that is slower than float32, where ``min_speedup`` is null."""
    if budgets.get("min_speedup") is not None or speed["ratio"] >= EXPECTED_SPEEDUP:
        return []
    what = f"{speed['what']}. {speed['why']}"
    return [{"budget": "min_speedup", "variant": "int8", "got": speed["ratio"], "what": what}]


def reason_of_slowness(quantization: Mapping[str, Any]) -> str:
    """Why INT8 may be no faster than float32, from ``assembly.describe_quantization``."""
    layers, operators = quantization.get("in_float") or [], quantization.get("float_operators") or {}
    parts = []
    if layers:
        parts.append(f"{_counted(len(layers), 'layer')} ({_listed(layers)})")
    if operators:
        most = sorted(operators.items(), key=lambda item: (-item[1], item[0]))
        total = _counted(sum(operators.values()), "operator")
        parts.append(f"{total} without 8 bits ({_listed([f'{count} {name}' for name, count in most])})")
    if parts:
        return f"Left in float: {' and '.join(parts)}; each change between float and 8 bits takes time"
    if "float_operators" in quantization:
        return "Every layer runs in 8 bits: this runtime's INT8 kernels are no faster for these layers on this machine"
    return "What stayed in float is not known"


def conclusion(results: Mapping[str, Any]) -> str:
    """The verdict of a results file in one line, with warnings and undecided budgets."""
    words = [f"passed: {results['passed']}"]
    words += [f"warning: {warning['what']}" for warning in results["warnings"]]
    if results["undecided"]:
        classes = [entry["class"] for entry in results["undecided"] if "class" in entry]
        lacking = [f"not enough pixels of {', '.join(classes)} for budgets.class_drop"] if classes else []
        if len(classes) < len(results["undecided"]):
            lacking.append("not enough frames for budgets.miou_drop")
        words.append(f"undecided: {'; '.join(lacking)}")
    return "; ".join(words)


def _limited(budgets: Mapping[str, float | None], drops: Drops) -> Iterator[tuple[str, str, Drop]]:
    """(budget, class or an empty text, loss) of every loss that a budget limits."""
    if budgets.get("miou_drop") is not None:
        yield "miou_drop", "", drops.miou
    if budgets.get("class_drop") is not None:
        for name, lost in sorted(drops.classes.items(), key=lambda item: (-item[1].got, item[0])):
            yield "class_drop", name, lost


def _points(lost: Drop, drops: Drops) -> str:
    """``6.2 (0.5 to 12.0 with 95% confidence)``."""
    if drops.confidence is None:
        return f"{lost.got:.2f}"
    return f"{lost.got:.2f} ({lost.low:.2f} to {lost.high:.2f} with {100 * drops.confidence:g}% confidence)"


def _about(name: str, lost: Drop) -> dict[str, Any]:
    named = {"class": name} if name else {}
    return {**named, "interval": lost.interval, "frames": lost.frames}


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
