"""What compression cost, and whether that is within the budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


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


def violations(
    budgets: Mapping[str, float | None], lost: Mapping[str, Any], int8: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The budgets that the INT8 engine breaks.

    Args:
        budgets: ``miou_drop`` and ``class_drop`` in points, ``latency_p99_ms``, ``size_mb``; None is no limit.
        lost: result of :func:`drop`.
        int8: results of the INT8 variant.
    """
    size_mb = round(int8["size_bytes"] / 1e6, 3)
    p99 = int8["latency_ms"]["p99"]
    checks = {
        "miou_drop": (
            lost["miou_int8_vs_float"],
            "INT8 loses {got} mIoU against the float student; the budget allows {limit}",
        ),
        "class_drop": (
            lost["worst_class_drop"],
            f"class {lost['worst_class']} loses {{got}} IoU in INT8; the budget allows {{limit}}",
        ),
        "latency_p99_ms": (p99, "INT8 takes {got} ms at p99; the budget allows {limit}"),
        "size_mb": (size_mb, "the INT8 engine has {got} MB; the budget allows {limit}"),
    }
    broken = []
    for budget, (got, text) in checks.items():
        limit = budgets.get(budget)
        if limit is not None and got > limit:
            what = text.format(got=round(got, 2), limit=limit)
            broken.append({"budget": budget, "variant": "int8", "limit": limit, "got": got, "what": what})
    return broken
