"""The fastest variant that keeps every budget: cases, its record beside the engines, and who reads it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


HASHES = {"fp32": "a", "fp16": "b", "int8": "c"}


@pytest.fixture
def results() -> dict[str, Any]:
    variants = timed(torch=20.0, fp32=6.0, fp16=5.0, int8=3.0)
    choice = find(variants)
    for name, variant in variants.items():
        variant["sha256"] = HASHES.get(name, "t")
    return {"variants": variants, "fastest": choice, "device": {"name": "Orin"}}


def test_the_record_is_beside_the_engines(
    results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = tmp_path / "engines" / "kd.v2"
    engines.mkdir(parents=True)
    assert fastest.write(engines, results) == tmp_path / "engines/kd.v2.json"
    record = json.loads((tmp_path / "engines/kd.v2.json").read_text())
    assert (record["variant"], record["device"], record["sha256"]) == ("int8", "Orin", HASHES)
    assert fastest.recorded(engines, HASHES)[0] == "int8"
    monkeypatch.chdir(engines)
    assert fastest.recorded(Path(), HASHES)[0] == "int8", "of this folder"
    assert not list(engines.iterdir()), "the folder is an output of another stage"


@pytest.mark.parametrize(
    ("present", "variant", "why"),
    [
        (HASHES, "int8", "INT8 is the fastest variant that keeps every budget: 3 ms at p50"),
        ({"int8": "c"}, "int8", "INT8 is the fastest"),
        (HASHES | {"fp32": "x"}, None, "is about other engines, so the fastest variant is not known; measure it with"),
        (HASHES | {"int8": "x"}, None, "is about other engines"),
        ({"fp32": "a", "fp16": "b"}, None, "names int8 as the fastest variant, and "),
    ],
)
def test_a_record_counts_for_its_engines_only(
    results: dict[str, Any], tmp_path: Path, present: dict[str, str], variant: str | None, why: str
) -> None:
    fastest.write(tmp_path / "kd", results)
    chosen, reason = fastest.recorded(tmp_path / "kd", present)
    assert chosen == variant and why in reason and "kd.json" in reason


def test_without_a_valid_record(results: dict[str, Any], tmp_path: Path) -> None:
    engines = tmp_path / "kd"
    variant, why = fastest.recorded(engines, HASHES)
    assert variant is None and "kd.json does not exist, so the fastest variant is not known; measure it with" in why
    results["fastest"] = find(results["variants"], {name: [SIZE] for name in HASHES})
    fastest.write(engines, results)
    assert fastest.recorded(engines, HASHES) == (None, f"no variant keeps every budget ({tmp_path / 'kd.json'})")
    for text in ("{}", '{"variant": "int8", "sha256": ["c"]}'):
        fastest.record_of(engines).write_text(text)
        assert "is about other engines" in fastest.recorded(engines, HASHES)[1]
    fastest.record_of(engines).write_text("{")
    with pytest.raises(UserError, match=r"kd\.json: not JSON .*; delete it, or measure it with: dvc repro check"):
        fastest.recorded(engines, HASHES)
