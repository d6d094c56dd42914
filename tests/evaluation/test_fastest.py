"""The fastest variant that keeps every budget: cases, its record beside the engines, and who reads it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.evaluation import fastest, latency

SIZE = {"what": "the fp32 engine has 5 MB; the budget allows 2"}
POLE = {"what": "class pole loses 7.00 IoU in INT8; the budget allows 5"}


def timed(**p50: float | tuple[float, float]) -> dict[str, Any]:
    """Variants with these medians in ms; (median, half of its interval), which is 0 without a second number."""
    variants = {}
    for name, given in p50.items():
        middle, spread = given if isinstance(given, tuple) else (given, 0.0)
        times = {"p50": middle, "p50_interval": [middle - spread, middle + spread]}
        variants[name] = {"runtime": f"any 1.{len(name)}", "latency_ms": times}
    return variants


def find(variants: dict[str, Any], broken: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    none: dict[str, Any] = {name: [] for name in variants}
    return fastest.find(variants, broken=none | (broken or {}), undecided=none | more.pop("undecided", {}), **more)


@pytest.mark.parametrize(
    ("variants", "broken", "variant"),
    [
        ({"fp32": 6.0, "fp16": 5.0, "int8": 3.0}, (), "int8"),
        ({"fp32": 2.93, "fp16": 6.12, "int8": 4.74}, (), "fp32"),  # CUDA, as measured on an H200
        ({"fp32": 6.0, "fp16": 3.0, "int8": 4.0}, (), "fp16"),
        ({"fp32": 6.0, "fp16": 3.0, "int8": 2.95}, (), "fp16"),  # 1.7 % is too little
        ({"fp32": 6.0, "fp16": 3.0, "int8": 2.94}, (), "int8"),  # 2.04 %
        ({"fp32": 3.0, "fp16": 3.0, "int8": 2.0}, (), "int8"),
        ({"fp32": 3.0, "fp16": 2.96, "int8": 2.93}, (), "fp32"),  # INT8 is 2.4 % faster than fp32, not than fp16
        ({"fp32": 6.0, "fp16": 5.0, "int8": 3.0}, ("int8",), "fp16"),
        ({"fp32": 6.0, "fp16": 5.0, "int8": 3.0}, ("fp16",), "int8"),
        ({"fp32": 6.0, "fp16": 3.0, "int8": 4.0}, ("fp16",), "int8"),  # only variants that keep the budgets compete
        ({"fp32": 6.0, "fp16": 5.0, "int8": 7.0}, ("fp32", "fp16"), "int8"),
        ({"fp32": 6.0, "fp16": 5.0, "int8": 3.0}, ("fp32", "fp16", "int8"), None),
        ({"fp32": 6.0, "int8": 3.0}, (), "int8"),  # without fp16
        ({"torch": 0.1, "fp32": 6.0, "int8": 3.0}, (), "int8"),  # torch is no engine
        ({"fp32": 6.0, "fp16": 6.0, "int8": (5.0, 0.8)}, (), "int8"),  # at most 5.8, and 6 is 3.4 % more
        ({"fp32": 6.0, "fp16": 6.0, "int8": (5.0, 0.9)}, (), "fp32"),  # 5.9: the spread leaves 1.7 %
        ({"fp32": (6.0, 1.0), "fp16": (7.0, 0.1), "int8": 4.8}, (), "int8"),
        ({"fp32": (6.0, 1.0), "fp16": (7.0, 0.1), "int8": 4.95}, (), "fp32"),  # fp32 may be as fast as 5.0
    ],
)
def test_cases(variants: dict[str, Any], broken: tuple[str, ...], variant: str | None) -> None:
    measured = timed(**variants)
    choice = find(measured, {name: [SIZE] for name in broken})
    assert choice["variant"] == variant
    assert choice["runtime"] == (measured[variant]["runtime"] if variant else None)
    others = [other["variant"] for other in choice["others"]]
    assert others == [name for name in ("fp32", "fp16", "int8") if name in variants and name != variant]
    assert all(other["what"] for other in choice["others"]), "each has a reason"


def reasons(choice: dict[str, Any]) -> dict[str, str]:
    return {other["variant"]: other["what"] for other in choice["others"]}


def test_reasons() -> None:
    choice = find(timed(fp32=(6.124, 0.1), fp16=(7.5, 0.25), int8=(3.5, 0.01)), {"fp16": [SIZE]})
    assert choice["what"] == "INT8 is the fastest variant that keeps every budget: 3.5 ms at p50"
    assert reasons(choice) == {
        "fp32": "fp32 is slower than INT8: 6.124 ms (6.024 to 6.224) against 3.5 ms (3.49 to 3.51) at p50",
        "fp16": SIZE["what"],
    }
    choice = find(timed(fp32=2.93, fp16=6.12, int8=4.74))
    assert choice["what"] == "fp32 is the fastest variant that keeps every budget: 2.93 ms at p50"
    assert reasons(choice)["int8"] == (
        "INT8 is not measurably faster than fp32 (at least 2 %): 4.74 ms (4.74 to 4.74) against 2.93 ms (2.93 to 2.93) "
        "at p50"
    )
    middle = reasons(find(timed(fp32=3.0, fp16=2.96, int8=2.93)))
    assert "INT8 is not measurably faster than fp16" in middle["int8"], "the one that it does not beat"
    assert "fp16 is not measurably faster than fp32" in middle["fp16"]


def test_a_choice_between_nothing_and_doubts() -> None:
    variants = timed(fp32=6.0, int8=3.0)
    choice = find(variants, {"fp32": [SIZE], "int8": [POLE, POLE, POLE, POLE, POLE]})
    assert choice["what"] == "no variant keeps every budget" and choice["undecided"] == []
    assert reasons(choice)["int8"] == "; ".join([POLE["what"]] * 3) + "; and 2 more"
    undecided = {"int8": [{"what": "not enough pixels of sign"}]}
    choice = find(variants, undecided=undecided, unstable=["fp32", "torch"])
    assert choice["what"] == (
        "INT8 is the fastest variant that breaks no budget (some are undecided): 3 ms at p50; latency unstable, "
        "measure again on a machine without other work"
    )
    assert choice["undecided"] == ["not enough pixels of sign"]
    assert "unstable" not in find(variants, {"fp32": [SIZE]}, unstable=["fp32", "int8"])["what"], "nothing to compare"
    assert "unstable" not in find(variants, unstable=["torch"])["what"]


def test_the_interval_holds_the_median_with_its_confidence() -> None:
    for n in (9, 12, 30, 50, 101, 480):
        low, high = latency.median_interval(np.arange(1.0, n + 1))  # the samples are their own ranks
        within = sum(math.comb(n, k) for k in range(int(low), int(high))) / 2**n  # samples below the median
        assert 0.95 <= within < 0.995 or (low, high) == (1, n)
        assert low <= latency.summary(np.arange(1.0, n + 1))["p50"] <= high
    assert latency.median_interval(np.array([2.0])) == (2.0, 2.0)
    outliers = np.concatenate([np.full(90, 3.0), np.full(10, 300.0)])
    assert latency.summary(outliers)["p50_interval"] == [3.0, 3.0], "outliers do not widen it"


MACHINE = {"runtime": "onnxruntime", "runtime_options": {"threads": 2}, "fingerprint": {"cpu": "A", "onnxruntime": "1"}}
PRECISIONS = ("fp32", "fp16", "int8")


def build(engines: Path, name: str, content: str = "", **facts: Any) -> None:
    """An artifact that looks like an engine."""
    with artifact.create(engines / name, kind="engine", meta=MACHINE | {"build": {"tried": 1}} | facts) as folder:
        (folder / "engine.onnx").write_text(content or name)


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    for name in PRECISIONS:
        build(tmp_path / "engines/kd.v2", name)
    return tmp_path / "engines/kd.v2"


@pytest.fixture
def results() -> dict[str, Any]:
    variants = timed(torch=20.0, fp32=6.0, fp16=5.0, int8=3.0)
    return {"variants": variants, "fastest": find(variants), "device": {"name": "Orin"}}


def test_the_record_is_beside_the_engines(
    results: dict[str, Any], engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = engines.parent / "kd.v2.json"
    assert fastest.write(engines, results) == file
    record = json.loads(file.read_text())
    assert (record["variant"], record["device"], list(record["engines"])) == ("int8", "Orin", sorted(PRECISIONS))
    why = f"INT8 is the fastest variant that keeps every budget: 3 ms at p50 ({file})"
    assert fastest.recorded(engines) == ("int8", why)
    assert sorted(place.name for place in engines.iterdir()) == sorted(PRECISIONS), "it is an output of another stage"
    build(engines, "fp16", build={"tried": 2})
    assert fastest.recorded(engines)[0] == "int8", "an equal engine"
    monkeypatch.chdir(engines)
    assert fastest.recorded(Path())[0] == "int8", "of this folder"
    (engines.parents[1] / "link").symlink_to(engines)
    assert fastest.recorded(engines.parents[1] / "link")[0] == "int8", "through a link"


@pytest.mark.parametrize(
    ("change", "variant", "why"),
    [
        ({}, "int8", "INT8 is the fastest"),
        ({"content": "another"}, None, "is about other engines, so the fastest variant is not known; measure it with"),
        ({"runtime_options": {"threads": 8}}, None, "is about other engines"),  # the files are equal
        ({"fingerprint": {"cpu": "B", "onnxruntime": "1"}}, None, "is about other engines"),
        ({"runtime": "other"}, None, "is about other engines"),
    ],
)
def test_a_record_counts_for_its_engines_only(
    results: dict[str, Any], engines: Path, change: dict[str, Any], variant: str | None, why: str
) -> None:
    fastest.write(engines, results)
    build(engines, "fp32", **change)
    chosen, reason = fastest.recorded(engines)
    assert chosen == variant and why in reason and "kd.v2.json" in reason


def test_a_variant_may_be_deleted_but_not_the_fastest(results: dict[str, Any], engines: Path) -> None:
    fastest.write(engines, results)
    shutil.rmtree(engines / "fp32")
    assert fastest.recorded(engines)[0] == "int8"
    shutil.rmtree(engines / "int8")
    variant, reason = fastest.recorded(engines)
    assert variant is None and f"names int8 as the fastest variant, and {engines} has no such engine" in reason


def test_without_a_valid_record(results: dict[str, Any], engines: Path) -> None:
    file = engines.parent / "kd.v2.json"
    variant, why = fastest.recorded(engines)
    assert variant is None
    assert why.startswith(f"{file} does not exist, so the fastest variant is not known; measure it with")
    results["fastest"] = find(results["variants"], {name: [SIZE] for name in PRECISIONS})
    fastest.write(engines, results)
    assert fastest.recorded(engines) == (None, f"no variant keeps every budget ({file})")
    for text in ("{}", '{"variant": "int8", "engines": ["c"]}'):
        file.write_text(text)
        assert "is about other engines" in fastest.recorded(engines)[1]
    file.write_text("{")
    with pytest.raises(UserError, match=r"kd\.v2\.json: not JSON .*; delete it, or measure it with: dvc repro check"):
        fastest.recorded(engines)
