"""The report as a study: Pareto fronts, intervals over seeds, gains by class, curves, several comparisons."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifact import dump_json
from pipeline.labels import LabelSpec
from pipeline.reporting import (
    comparison,
    comparison_table,
    curves_figure,
    gains,
    intervals,
    page,
    pareto,
    placing,
    planes,
    spreads,
    svg,
    wording,
)
from pipeline.reporting.comparison import Comparison, Curve, Measured, Run, summarise
from pipeline.reporting.intervals import Difference, difference
from pipeline.reporting.measured import Latency, Result, Variant
from pipeline.reporting.results import load
from pipeline.reporting.wording import MINUS

SEEDS = [0, 1, 2]
CLASSES = ["a", "b", "c"]
SHA, TEACHER = "ab" * 32, "cd" * 32


def test_the_front_holds_what_no_point_dominates() -> None:
    generator = np.random.default_rng(3)
    for _ in range(50):
        points = [(float(x), float(y)) for x, y in generator.integers(0, 6, (9, 2))]
        dominated = {
            one
            for one, other in itertools.permutations(points, 2)
            if other != one and other[0] <= one[0] and other[1] >= one[1]
        }
        assert pareto.front(points) == sorted(set(points) - dominated)


def t_share(bound: float, freedom: int) -> float:
    """Share of Student's t between -bound and bound, by the midpoint rule over its density."""
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    x = (np.arange(200_000) + 0.5) * (bound / 200_000)
    return float(2 * np.sum(scale * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)) * bound / 200_000)


def test_quantiles_enclose_95_percent_of_students_t() -> None:
    for freedom, quantile in enumerate(intervals.QUANTILES, start=1):
        assert t_share(quantile, freedom) == pytest.approx(0.95, abs=5e-6)


def test_differences_within_the_spread_of_seeds() -> None:
    assert difference([]) is None
    assert difference([1.5]) == Difference(1.5, None) and Difference(1.5, None).verdict == "one seed"
    three = difference([1.0, 3.0, 2.0])  # 2 ± 4.3027 * 1 / sqrt(3)
    assert three is not None and three.interval == (-0.4842, 4.4842) and three.verdict == "within spread"
    four = difference([1.0, 2.0, 2.0, 3.0])  # deviation sqrt(2 / 3), 3.1824 * 0.8165 / 2
    assert four is not None and four.interval == (0.7008, 3.2992) and four.verdict == "significant"
    worse = difference([-1.0, -1.1])  # 12.7062 * 0.0707 / sqrt(2)
    assert worse is not None and worse.interval == (-1.6853, -0.4147) and worse.verdict == "significant"


def run(miou: float, ious: list[float | None], **more: Any) -> Run:
    reached = Measured(miou, ious)
    return Run(reached, reached, seconds_per_step=0.3, training_seconds=60.0, peak_memory_mib=100.0, **more)


def curve(*mious: float) -> Curve:
    return Curve(steps=tuple(range(100, 100 * len(mious) + 1, 100)), miou=mious)


ALONE = {
    0: run(40.0, [50.0, None, 30.0], curve=curve(20.0, 40.0)),
    1: run(42.0, [51.0, None, 32.0], curve=curve(22.0, 42.0)),
    2: run(41.0, [50.0, None, 32.0], curve=curve(21.0, 41.0)),
}
KD = {
    0: run(42.0, [53.0, None, 31.0], curve=curve(30.0, 42.0)),
    1: run(44.2, [54.5, None, 35.0], curve=curve(31.0, 44.2)),
    2: run(42.9, [53.0, None, 31.0], curve=curve(32.0, 42.9)),
}


def study(**changes: Any) -> Comparison:
    """The student alone and kd, which gains 2.0, 2.2 and 1.9 points."""
    rows = [
        summarise(name, runs, seeds=SEEDS, loss=name, options={name: {}}, base=ALONE)
        for name, runs in (("none", ALONE), ("kd", KD))
    ]
    facts = {
        "dataset_sha256": SHA, "teacher": {"miou": 60.0, "sha256": TEACHER}, "student": "kd", "steps": 300,
        "model": {"name": "smp", "architecture": "unet", "encoder": "tiny", "encoder_weights": None},
    }  # fmt: skip
    return Comparison(**{**facts, "rows": rows, "classes": CLASSES, "seeds": SEEDS, **changes})


def test_gains_are_paired_by_seed() -> None:
    none, kd = study().rows
    gain = gains.of_miou(kd, study())
    assert gain is not None and gain.mean == pytest.approx(6.1 / 3) and gain.verdict == "significant"
    assert gains.of_miou(none, study()) is None and gains.best(study()) == kd
    by_class = {each.name: each.gain for each in gains.of_classes(kd, study())}
    # a: 3, 3.5, 3: 3.1667 ± 4.3027 * 0.2887 / sqrt(3); c: 1, 3, -1: 1 ± 4.3027 * 2 / sqrt(3); b is not in the labels
    assert list(by_class) == ["a", "c"]
    assert by_class["a"].interval == pytest.approx((2.4495, 3.8838), abs=1e-4)
    assert by_class["c"].interval == pytest.approx((-3.9683, 5.9683), abs=1e-4)
    assert (by_class["a"].verdict, by_class["c"].verdict) == ("significant", "within spread")


def test_a_seed_without_a_pair_is_left_out() -> None:
    rows = [
        summarise("none", {1: ALONE[1]}, seeds=SEEDS, loss="none", options={"none": {}}, base=ALONE),
        summarise("kd", KD, seeds=SEEDS, loss="kd", options={"kd": {}}, base={1: ALONE[1]}),
    ]
    one = study(rows=rows)
    assert gains.of_miou(one.rows[1], one) == Difference(pytest.approx(2.2), None)  # type: ignore[arg-type]
    assert comparison_table.markdown(one).count("one seed") == 1


def test_old_files_have_no_gains_by_class_and_no_curves() -> None:
    file = Path(__file__).parents[2] / "results" / comparison.FILE
    old = comparison.load(file)
    dropped = [{key: value for key, value in row.model_dump().items() if key != "curves"} for row in old.rows]
    for row in dropped:
        for figures in ("best", "last", "int8"):
            row[figures].pop("ious")
    old = old.model_copy(update={"rows": Comparison(**{**old.model_dump(), "rows": dropped}).rows})
    assert old.baseline is not None and not any(gains.of_classes(row, old) for row in old.rows)
    text = rendered([old], sha=old.dataset_sha256)
    assert "What each class gains" not in text and "While they train" not in text
    assert "What training costs" in text and "peak MiB" in text
    assert f"{MINUS}1.3 to +0.1 (within spread)" in text and "+0.1 to +0.6 (significant)" in text


def test_curves_and_class_gains_are_on_the_page() -> None:
    text = rendered([study()])
    assert "While they train" in text and "steps of training" in text
    assert "What each class gains over none" in text and "highest gain in mIoU" in text
    assert "<h2>Losses compared</h2>" in text and text == rendered([study()])
    minutes = curves_figure.lines(study(steps=None, minutes=1.5), name="x")
    assert minutes is not None and "minutes of training" in minutes


def test_names_at_the_ends_of_curves_are_apart() -> None:
    heights = list(np.random.default_rng(0).normal(0, 9, 10))
    placed = curves_figure.spread_out(heights, 14.0)
    assert np.argsort(placed).tolist() == np.argsort(heights).tolist()
    assert np.diff(np.sort(placed)).min() >= 14.0 - 1e-6


CHANGES: dict[str, dict[str, Any]] = {"as it is": {}, "average": {"distill.ema": 0.999, "distill.schedule": "cosine"}}


def ablations(**changes: Any) -> Comparison:
    rows = [
        summarise(name, runs, seeds=SEEDS, loss="kd", options={"kd": {}, **changed}, base=ALONE if changed else {})
        for (name, changed), runs in zip(CHANGES.items(), (ALONE, KD), strict=True)
    ]
    return study(rows=rows, **changes)


def test_changed_params_are_compared_with_the_row_without_changes() -> None:
    assert ablations().baseline == ablations().rows[0] and ablations().of_changes
    first, _, unchanged, changed, *_, caption = comparison_table.markdown(ablations()).splitlines()
    assert first.startswith("| name | loss | changed | best mIoU |")
    assert unchanged.startswith(
        f"| as it is | kd | {comparison_table.NOTHING} | 41.0 ± 1.0 | {comparison_table.NOTHING} |"
    )
    assert changed.startswith("| average | kd | distill.ema 0.999, distill.schedule cosine | 43.0 ± 1.1 | +2.0 ± 0.1 |")
    assert "gain over as it is of the same seed" in caption
    text = rendered([ablations(title="Training of kd")])
    assert "<h2>Training of kd</h2>" in text and "the params of the column changed" in text


def write(folder: Path, name: str, contents: Comparison, *without: str) -> None:
    (folder / name).write_text(dump_json({k: v for k, v in contents.model_dump().items() if k not in without}))


def test_every_comparison_is_a_section(tmp_path: Path) -> None:
    write(tmp_path, "comparison-b.json", ablations(), "title")
    write(tmp_path, "comparison-a.json", ablations(title="Ours"))
    write(tmp_path, "comparison.json", study(), "title")
    (tmp_path / "kd.json").write_text(json.dumps({"student": "kd", "dataset_sha256": SHA}))
    (result,) = load(tmp_path)
    assert result.student == "kd", "comparisons are no students"
    loaded = [comparison.load(file) for file in comparison.files(tmp_path)]
    assert [each.title for each in loaded] == ["Losses compared", "Ours", "Losses compared: b"]
    text = rendered(loaded)
    titles = re.findall(r"<h2>(Losses compared.*?|Ours)</h2>", text)
    assert titles == ["Losses compared", "Ours", "Losses compared: b"]
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def result_of(label: str, miou: float, ms: float, **more: Any) -> Result:
    measured = (("torch", 0.0, 6_000_000, 4.0), ("fp32", 0.0, 6_000_000, 1.7), ("int8", 0.3, 1_500_000, 1.0))
    variants = {
        name: Variant(miou=miou - drop, size_bytes=size, latency_ms=Latency(p50=ms * factor))
        for name, drop, size, factor in measured
    }
    facts = {
        "student": label,
        "label": label,
        "loss": label,
        "split": "val",
        "dataset_sha256": SHA,
        "variants": variants,
    }
    return Result(**{**facts, "teacher": {"miou": 68.0, "sha256": TEACHER}, **more})


LABELS = LabelSpec(names=("a", "b", "c"), palette=((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def rendered(comparisons: list[Comparison], *, sha: str = SHA, **options: Any) -> str:
    result = Result(student="kd", label="kd", loss="kd", dataset_sha256=sha)
    return page.render([result], labels=LABELS, shares={}, strips={}, comparisons=comparisons, **options)


def trained(**changes: Any) -> Result:
    facts = {"loss": "kd", "model": "smp unet tiny", "weights": {"exported": "best", "last": {"step": 300}}}
    return result_of("kd", 43.0, 1.5, **{**facts, **changes})


def test_a_bar_needs_the_same_training() -> None:
    assert spreads.of(trained(), [study()]) == {"torch": 1.106, "fp32": 1.106}, "INT8 was not compared"
    int8 = {seed: run(each.best.miou, list(each.best.per_class_iou), int8=each.last) for seed, each in KD.items()}
    row = summarise("kd", int8, seeds=SEEDS, loss="kd", options={"kd": {}}, base={})
    assert spreads.of(trained(), [study(rows=[row])])["int8"] == 1.106
    others: list[dict[str, Any]] = [
        {"dataset_sha256": "00"}, {"split": "test"}, {"teacher": {"sha256": "00"}}, {"loss": "at"},
        {"model": "smp unet large"}, {"model": ""}, {"weights": {"last": {"step": 200}}},
        {"quantization": {"quantization_aware": {"target": "cpu"}}},
    ]  # fmt: skip
    for changes in others:
        assert spreads.of(trained(**changes), [study()]) == {}, changes
    assert spreads.of(trained(), [ablations()]) == {"torch": 1.0, "fp32": 1.0}, "of the row without changes"


@pytest.mark.parametrize("cost", ["latency", "size"])
@pytest.mark.parametrize("width", [860, 380])
def test_names_of_ten_students_do_not_overlap(cost: planes.Cost, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    placers: list[placing.Placer] = []

    class Recorded(placing.Placer):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            placers.append(self)

    monkeypatch.setattr(placing, "Placer", Recorded)
    generator = np.random.default_rng(5)
    results = [
        result_of(f"student-{k}", 62 + float(generator.normal(0, 0.8)), 1.6 * (1 + k % 2 * 0.6)) for k in range(10)
    ]
    drawn = planes.plane(results, cost, spreads={}, width=width)
    (placer,) = placers
    assert drawn is not None and all(f"student-{k}" in drawn for k in range(10))
    assert len(placer.labels) == 11, "ten students and the teacher"
    for one, other in itertools.combinations(placer.labels, 2):
        assert placing._overlap(one, other) == 0


def test_the_planes_show_front_teacher_and_bars() -> None:
    results = [result_of("none", 60.0, 1.6), result_of("kd", 62.0, 1.6), result_of("teacher", 68.0, 9.0)]
    drawn = planes.plane(results, "size", spreads={"kd": {"torch": 0.4, "int8": 0.5}})
    assert drawn is not None and "front" in drawn and "teacher INT8" in drawn and "teacher 68.0" in drawn
    assert wording.best(results) == results[1], "the teacher is no student"
    none = planes.plane(results, "size", spreads={})
    assert none is not None and len(drawn) > len(none), "no bar without a spread"
    two = [results[0], result_of("kd", 62.0, 1.6, device={"id": "orin"})]
    assert (
        planes.has_front(results, "latency") and not planes.has_front(two, "latency") and planes.has_front(two, "size")
    )


def test_ten_colours_are_different() -> None:
    assert len({svg.series_colour(index) for index in range(10)}) == svg.SERIES == 10
    style = page.resources.files("pipeline.reporting").joinpath("report.css.j2").read_text("utf-8")
    assert all(style.count(f"--{name}:") == 2 for name in svg.THEME), "in light and in dark"


def test_a_student_is_compared_with_the_same_network_alone() -> None:
    small, large = {"model": "smp fpn tiny", "parameters": 3}, {"model": "smp fpn tiny", "parameters": 7}
    other, alone, student = (
        result_of("x", 60.0, 5.0, **facts)
        for facts in ({**large, "loss": "none"}, {**small, "loss": "none"}, {**small, "loss": "kd"})
    )
    assert wording.baseline([other, alone, student], student) is alone
    assert wording.baseline([other, student], student) is None
