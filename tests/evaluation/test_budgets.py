"""Drops, budgets and warnings, compared with cases calculated by hand."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.evaluation import budgets
from pipeline.evaluation.drops import Drop, Drops

TORCH = {"miou": 60.0, "per_class_iou": [80.0, 40.0, None]}
ALL_BUDGETS = ["miou_drop", "class_drop", "latency_p99_ms", "size_mb", "min_speedup"]
INT8 = {"miou": 58.0, "per_class_iou": [79.5, 36.5, None], "size_bytes": 2_500_000, "latency_ms": {"p99": 7.0}}


def lost(miou: float = 2.0, confidence: float | None = None, **classes: Drop | float) -> Drops:
    """Losses of 50 frames; the loss of a class that is given as a number has an interval of width 0."""
    drops = {name: each if isinstance(each, Drop) else Drop(each, each, each, 50) for name, each in classes.items()}
    return Drops(Drop(miou, miou, miou, 50), drops, 50, confidence)


def speed(ratio: float, *unstable: str, reason: str = "Because.") -> dict[str, Any]:
    return budgets.speed({"p50": 60.0}, {"p50": 60.0 / ratio}, unstable=unstable, reason=reason)


def test_drop_by_hand() -> None:
    lost = budgets.drop(TORCH, INT8, ["road", "pole", "tram"], teacher_miou=70.0)
    assert lost == {
        "miou_int8_vs_float": 2.0, "miou_int8_vs_teacher": 12.0, "worst_class": "pole", "worst_class_drop": 3.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "broken"),
    [
        ({"miou_drop": 2.0, "class_drop": 3.5, "latency_p99_ms": 7.0, "size_mb": 2.5, "min_speedup": 1.5}, []),
        ({"miou_drop": 1.9, "class_drop": 3.4, "latency_p99_ms": 6.9, "size_mb": 2.4, "min_speedup": 1.6}, ALL_BUDGETS),
        ({"miou_drop": None, "class_drop": 1.0, "latency_p99_ms": None, "size_mb": None}, ["class_drop"]),
    ],
)
def test_budgets(limits: dict[str, float | None], broken: list[str]) -> None:
    violations = budgets.violations(limits, lost(road=0.5, pole=3.5), INT8, speed(1.5))
    assert [entry["budget"] for entry in violations] == broken
    assert all(f"{entry['limit']:g}" in entry["what"] for entry in violations)
    assert budgets.undecided(limits, lost(road=0.5, pole=3.5)) == []


def test_every_class_that_breaks_the_budget_is_named_and_noise_breaks_none() -> None:
    drops = lost(
        confidence=0.95,
        road=Drop(6.0, 5.5, 6.5, 50),
        pole=Drop(9.0, 0.5, 17.0, 12),  # a large loss with a wide interval
        sign=Drop(30.0, 30.0, 30.0, 2, enough=False),
        car=Drop(7.0, 5.1, 9.0, 40),
        sky=Drop(0.1, 0.0, 0.2, 50),
    )
    limits = {"miou_drop": 5.0, "class_drop": 5.0, "confidence": 0.95}
    broken = budgets.violations(limits, drops, INT8, speed(2.0))
    assert [(entry["class"], entry["got"], entry["interval"]) for entry in broken] == [
        ("car", 7.0, [5.1, 9.0]),
        ("road", 6.0, [5.5, 6.5]),
    ]
    assert broken[0]["what"] == (
        "class car loses 7.00 (5.10 to 9.00 with 95% confidence) IoU in INT8; the budget allows 5"
    )
    assert [entry["what"] for entry in budgets.undecided(limits, drops)] == [
        "not enough pixels of sign: 2 of 50 frames show it, and 95% confidence needs 6",
        "not enough pixels of pole: it loses 9.00 (0.50 to 17.00 with 95% confidence) IoU in INT8, and the budget of 5 "
        "lies inside this interval",
    ]
    assert budgets.undecided({"class_drop": None, "miou_drop": None}, drops) == []


def test_each_variant_has_its_own_sentences() -> None:
    limits = {"miou_drop": 1.0, "class_drop": 1.0, "latency_p99_ms": 6.0, "size_mb": 2.0, "min_speedup": 9.0}
    drops = lost(road=3.0, pole=Drop(1.0, 0.5, 9.0, 9))
    broken = budgets.violations(limits, drops, INT8, variant="fp16")
    assert [(entry["variant"], entry["budget"], entry["what"].split(";")[0]) for entry in broken] == [
        ("fp16", "miou_drop", "fp16 loses 2.00 mIoU against float"),
        ("fp16", "class_drop", "class road loses 3.00 IoU in fp16"),
        ("fp16", "latency_p99_ms", "fp16 takes 7 ms at p99"),
        ("fp16", "size_mb", "the fp16 engine has 2.5 MB"),
    ], "min_speedup is about INT8"
    (entry,) = budgets.undecided(limits, drops, variant="fp16")
    assert "it loses 1.00 IoU in fp16, and the budget" in entry["what"]


def test_few_frames_decide_no_miou_either() -> None:
    drops = Drops(Drop(0.5, 0.5, 0.5, 3, enough=False), {}, 3, 0.95)
    (entry,) = budgets.undecided({"miou_drop": 1.0}, drops)
    assert entry["what"] == "not enough frames: there are 3, and 95% confidence needs 6" and "class" not in entry


def test_slower_int8_is_a_warning_or_with_a_limit_a_violation() -> None:
    slow, fast = speed(0.67), speed(1.2)
    for limits in ({}, {"min_speedup": None}):
        (warning,) = budgets.warnings(limits, slow)
        assert warning["what"] == "INT8 is not faster than float32 (0.67x: 89.55 ms against 60 ms at p50). Because."
        assert budgets.warnings(limits, fast) == [] == budgets.violations(limits, lost(), INT8, slow)
    gate = {"min_speedup": 1.5}
    assert budgets.warnings(gate, slow) == [], "the violation reports it already"
    assert [entry["got"] for entry in budgets.violations(gate, lost(), INT8, slow)] == [0.67]
    (entry,) = budgets.violations(gate, lost(), INT8, fast)
    assert entry["what"].startswith(
        "INT8 is only 1.20x as fast as float32 (50 ms against 60 ms at p50); the budget requires"
    )
    off = {"min_speedup": 0.0}
    assert budgets.warnings(off, slow) == [] == budgets.violations(off, lost(), INT8, slow)


def test_the_warning_about_speed_mentions_unstable_latency() -> None:
    assert "latency unstable" in budgets.warnings({}, speed(0.9, "int8"))[0]["what"]
    assert "latency unstable" in budgets.warnings({}, speed(0.9, "fp32", "torch"))[0]["what"]
    assert "unstable" not in budgets.warnings({}, speed(0.9, "torch", "fp16"))[0]["what"]


@pytest.mark.parametrize(
    ("quantization", "reason"),
    [
        ({}, "What stayed in float is not known"),
        ({"in_float": [], "float_operators": {}}, "Every layer runs in 8 bits: this runtime's INT8 kernels are no"),
        ({"in_float": ["head"], "float_operators": {}}, "Left in float: 1 layer (head); each change"),
        (
            {"in_float": list("abcdef"), "float_operators": {"PRelu": 1, "ConvTranspose": 5}},
            "Left in float: 6 layers (a, b, c, d and 2 more) and 6 operators without 8 bits (5 ConvTranspose, 1 PRelu)",
        ),
    ],
)
def test_the_reason_names_layers_and_operators_in_float(quantization: dict[str, Any], reason: str) -> None:
    assert budgets.reason_of_slowness(quantization).startswith(reason)


def test_the_last_line_names_all_problems() -> None:
    results: dict[str, Any] = {"passed": True, "warnings": [], "undecided": []}
    assert budgets.conclusion(results) == "passed: True"
    results["warnings"] = [{"what": "INT8 is not faster than float32 (0.67x)"}]
    results["undecided"] = [{"budget": "miou_drop"}, {"class": "pole"}, {"class": "sign"}]
    assert budgets.conclusion(results) == (
        "passed: True; warning: INT8 is not faster than float32 (0.67x); undecided: not enough pixels of pole, sign "
        "for budgets.class_drop; not enough frames for budgets.miou_drop"
    )
