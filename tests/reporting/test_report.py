"""The report: correct numbers, one self-contained page, and no values that the results do not contain."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import artifact, verbs
from pipeline.errors import UserError
from pipeline.frames import write_png
from pipeline.reporting import page, table, wording
from pipeline.reporting.measured import Result
from pipeline.reporting.results import load
from pipeline.settings.params import load as load_params

ROOT = Path(__file__).parents[2]
CLASSES = ["road", "pole", "car"]
NAMES = ["a", "b", "c", "d"]
X = wording.TIMES
EVIL = "</svg><script>alert('$x$')</script>--><b>"


def results_of(student: str, classes: list[str] = CLASSES, **changes: Any) -> dict[str, Any]:
    def variant(miou: float, ms: float, size: int) -> dict[str, Any]:
        latency = {"p50": ms, "p90": ms * 1.1, "p99": ms * 1.3, "n": 50, "cov": 0.05}
        ious = [miou + 10, miou - 10, miou]
        return {"miou": miou, "per_class_iou": ious, "size_bytes": size, "latency_ms": latency, "sha256": "ab" * 32}

    return {
        "student": student,
        "loss": student,
        "dataset": "streets",
        "split": "val",
        "images": 4,
        "classes": classes,
        "absent_classes": [],
        "model": "tiny",
        "parameters": 1000,
        "input_size": [32, 48],
        "device": {"id": "cpu-x", "name": "CPU X", "kind": "cpu", "cores": 2},
        "teacher": {"miou": 71.0, "per_class_iou": [81.0, 61.0, 71.0], "parameters": 9000, "model": "big"},
        "variants": {
            "torch": variant(65.3, 21.0, 6_700_000),
            "fp32": variant(65.3, 12.0, 6_600_000),
            "int8": variant(64.9, 5.7, 1_833_000),
        },
        "drop": {
            "miou_int8_vs_float": 0.4,
            "miou_int8_vs_teacher": 6.1,
            "worst_class": classes[1],
            "worst_class_drop": 2.2,
        },
        "speedup_int8_vs_fp32": 2.1,
        "unstable": [],
        "quantization": {
            "method": "mse",
            "in_float": ["conv_b"],
            "budget_held": True,
            "sensitivity": [
                {"layer": "conv_b", "disagreement": 3.21, "worst_class": "pole"},
                {"layer": "a_very_long_name_of_a_layer_conv_a", "disagreement": 0.5, "worst_class": "car"},
            ],
        },
        "fastest": {
            "variant": "int8",
            "runtime": "onnxruntime 1.31.1",
            "what": "INT8 is the fastest variant that keeps every budget: 5.7 ms at p50",
            "undecided": [],
            "others": [{"variant": "fp32", "what": "fp32 is slower than INT8: 12 ms against 5.7 ms at p50"}],
        },
        "passed": True,
        "violations": [],
        **changes,
    }


class Project:
    """A folder with results, a data set and predictions; ``page()`` renders their report."""

    def __init__(self, root: Path, classes: list[str] = CLASSES) -> None:
        self.results, self.dataset, self.predictions = root / "results", root / "dataset", root / "predictions"
        self.results.mkdir()
        self.classes = classes
        generator = np.random.default_rng(0)
        self.labels = {name: generator.integers(0, 3, (32, 48), dtype=np.uint8) for name in NAMES}
        palette = [[128, 64, 128], [220, 220, 0], [0, 0, 142]]
        meta = {"dataset": "streets", "splits": {"val": NAMES}, "classes": classes, "palette": palette}
        with artifact.create(self.dataset, kind="dataset", meta={**meta, "ignore_index": 255}) as folder:
            for name, label in self.labels.items():
                write_png(folder / f"val/images/{name}.png", generator.integers(0, 255, (32, 48, 3), dtype=np.uint8))
                write_png(folder / f"val/labels/{name}.png", label)

    def add(self, file: str, /, **changes: Any) -> None:
        data = {**results_of(file, self.classes), **changes}
        (self.results / f"{file}.json").write_text(json.dumps(data), encoding="utf-8")

    def predict(self, student: str, names: list[str] = NAMES) -> None:
        """Write predictions: float is right everywhere, INT8 is wrong on the first row."""
        meta = {"split": "val", "names": names, "variants": ["torch", "int8"]}
        with artifact.create(self.predictions / student, kind="predictions", meta=meta) as folder:
            for name in names:
                label = self.labels.get(name, self.labels["a"])
                wrong = label.copy()
                wrong[0] = (wrong[0] + 1) % 3
                write_png(folder / f"torch/{name}.png", label)
                write_png(folder / f"int8/{name}.png", wrong)

    def load(self, **options: Any) -> list[Result]:
        return load(self.results, **options)

    def page(self, **options: Any) -> str:
        return page.build(self.load(**options), dataset=self.dataset, predictions=self.predictions)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def cells(markdown: str, student: str) -> dict[str, str]:
    lines = [[cell.strip() for cell in line.strip("|\n ").split(" | ")] for line in markdown.splitlines()]
    return dict(zip(lines[0], next(line for line in lines[2:] if line[0] == student), strict=True))


def test_markdown_has_the_measured_numbers(project: Project) -> None:
    project.add("kd")
    assert cells(table.markdown(project.load()), "kd") == {
        "student": "kd",
        "loss": "kd",
        "teacher mIoU": "71.0",
        "float mIoU": "65.3",
        "best / last": "not measured",
        "INT8 mIoU": "64.9",
        "drop": "0.4",
        "worst class drop": "pole 2.2",
        "fp32 ms p50": "12.0",
        "INT8 ms p50": "5.70",
        "speed-up": f"2.1{X}",
        "float MB": "6.60",
        "INT8 MB": "1.83",
        "fastest": "INT8",
        "verdict": "pass",
    }


@pytest.mark.parametrize(("exported", "cell"), [("best", "65.3/64.8"), ("last", "65.3/64.8 (last exported)")])
def test_both_weights_of_a_training_are_shown(project: Project, exported: str, cell: str) -> None:
    reached = {"best": {"step": 200, "miou": 65.3}, "last": {"step": 300, "miou": 64.8}}
    project.add("kd", weights={"exported": exported, **reached})
    assert cells(table.markdown(project.load()), "kd")["best / last"] == cell
    assert cell in project.page()


INTERVALS = {
    "miou_int8_vs_float": 0.4,
    "worst_class": "pole",
    "worst_class_drop": 2.2,
    "classes": [0.4, 2.2, None],
    "class_frames": [4, 2, 0],
    "confidence": 0.95,
    "miou_interval": [0.2, 0.6],
    "class_intervals": [[0.1, 0.7], [-0.9, 3.6], None],
}
OBJECTS = {
    "counts": [[0, 0, 4], [12, 3, 0], [0, 0, 0]],
    "recall_float": [[None, None, 100.0], [75.0, 66.6667, None], [None, None, None]],
    "recall_int8": [[None, None, 100.0], [58.3333, 66.6667, None], [None, None, None]],
    "small": {"count": 12, "float": 75.0, "int8": 58.3333},
}
SLOW = {
    "budget": "min_speedup",
    "variant": "int8",
    "got": 0.97,
    "what": "INT8 is not faster than float32 (0.97x). Few_.",
}


def undecided(*names: str) -> list[dict[str, Any]]:
    return [{"budget": "class_drop", "class": name, "what": f"not enough pixels of {name}: why"} for name in names]


def test_intervals_and_undecided_classes_are_shown(project: Project) -> None:
    project.add("kd", drop=INTERVALS, objects=OBJECTS, undecided=undecided("pole"))
    row = cells(table.markdown(project.load()), "kd")
    assert row["worst class drop"] == f"pole 2.2 ({wording.MINUS}0.9 to 3.6)"
    assert row["verdict"] == "pass (undecided: pole)"
    text = project.page()
    assert "Not enough pixels of pole: why." in text
    assert f"pole: {wording.MINUS}0.9 to 3.6 lost, with 95% confidence" in text
    section = text[text.index("IoU lost by each class") : text.index("Which layers hurt")]
    assert re.findall(r'<tr><th scope="row">(\w+)', section) == ["pole", "road"], "largest loss first, none absent"
    pole = section[section.index('<th scope="row">pole') :].split("</tr>")[0]
    shown = [cell.strip() for cell in re.findall(r">([^<>]+)<", pole) if cell.strip()]
    assert shown == [
        "pole", "undecided", "2", "2.2", f"{wording.MINUS}0.9 to 3.6",
        "12", "75.0", "58.3", "3", "66.7", "66.7", "none",
    ]  # fmt: skip
    assert "interval (95%)" in section
    assert 'aria-label="Change of IoU of each class from float to INT8, kd"' in section


def test_the_fastest_variant_is_shown_with_the_reasons(project: Project) -> None:
    choice = results_of("kd")["fastest"]
    fp16 = {**choice, "variant": "fp16", "what": "fp16 is the fastest variant that breaks no budget", "others": []}
    none = {**choice, "variant": None, "runtime": None, "what": "no variant keeps every budget"}
    project.add("kd")
    project.add("half", fastest={**fp16, "undecided": [f"not enough pixels of {EVIL}"]})
    project.add("none", fastest=none)
    project.add("old", fastest=None)
    shown = {name: cells(table.markdown(project.load()), name)["fastest"] for name in ("kd", "half", "none", "old")}
    assert shown == {"kd": "INT8", "half": "fp16", "none": "none", "old": "not measured"}
    text = project.page()
    assert "<p>INT8 is the fastest variant that keeps every budget: 5.7 ms at p50.</p>" in text
    assert "<li>fp32 is slower than INT8: 12 ms against 5.7 ms at p50.</li>" in text
    assert "<p>fp16 is the fastest variant that breaks no budget.</p>" in text
    assert "<p>No variant keeps every budget.</p>" in text and "<script" not in text
    assert text.count('<div class="fastest">') == 3, "files of an earlier version have none"


def test_many_undecided_classes_are_one_sentence(project: Project) -> None:
    names = [f"c{index}" for index in range(5)]
    project.add("kd", undecided=[{"budget": "miou_drop", "what": "not enough frames: why"}, *undecided(*names)])
    (result,) = project.load()
    assert wording.notes(result) == ["not enough frames: why", "not enough pixels of 5 classes: c0, c1, c2, c3, c4"]
    assert wording.verdict(result) == "pass (undecided: 5 classes, mIoU)"


def test_slow_int8_is_marked_in_tables_and_page(project: Project) -> None:
    project.add("kd", speedup_int8_vs_fp32=0.97, unstable=["fp32"], warnings=[SLOW])
    markdown = table.markdown(project.load())
    assert cells(markdown, "kd")["speed-up"] == f"0.97{X} (slower, unstable)"
    assert markdown.endswith("|\n\n- kd: INT8 is not faster than float32 (0.97x). Few\\_.\n")
    assert "INT8 is not faster" in str(table.rich_table(project.load()).caption)
    text = project.page()
    assert (
        "INT8 is not faster than float32 (0.97x). Few_" in text and '<span class="badge slower">slower</span>' in text
    )


def test_a_class_that_broke_its_budget_is_marked(project: Project) -> None:
    what = "class pole loses 2.20 (2.00 to 3.60 with 95% confidence) IoU in INT8; the budget allows 1.5"
    broken = {"budget": "class_drop", "class": "pole", "limit": 1.5, "got": 2.2, "what": what}
    project.add("kd", drop=INTERVALS, passed=False, violations=[broken])
    text = project.page()
    assert what in text and '<span class="lost">2.2</span>' in text[text.index("IoU lost by each class") :]


def test_results_of_an_earlier_version_are_shown_without_intervals(project: Project) -> None:
    project.add("kd")
    text = project.page()
    assert "IoU lost by each class" not in text and "undecided" not in re.sub(
        r"<style>.*?</style>", "", text, flags=re.S
    )
    committed = load(ROOT / "results")
    assert {result.verdict for result in committed} == {"pass"} and len(committed) == 2


def test_the_report_does_not_depend_on_the_time_on_a_gpu(project: Project) -> None:
    project.add("kd")
    before = table.markdown(project.load()), project.page()
    variants = results_of("kd")["variants"]
    for variant in variants.values():
        variant["latency_ms"]["device"] = {"min": 1.0, "p50": 1.1, "p99": 1.2, "n": 50, "cov": 0.01, "drift": 0.0}
    project.add("kd", variants=variants)
    assert (table.markdown(project.load()), project.page()) == before


def test_quantization_aware_training_is_shown_beside_the_loss(project: Project) -> None:
    project.add("aware", loss="kd", quantization={"quantization_aware": {"target": "cpu"}})
    project.add("plain", loss="kd", quantization={})
    assert [result.training for result in project.load()] == ["kd, QAT", "kd"]
    assert "| aware | kd, QAT |" in table.markdown(project.load())


def test_sensitive_layers_are_drawn(project: Project) -> None:
    project.add("kd")
    project.add("alone", quantization=None)
    html = project.page()
    assert "Which layers hurt" in html
    figure = html[html.index("Which layers hurt") :]
    assert "3.21" in figure and "conv_b" in figure and "\N{HORIZONTAL ELLIPSIS}" in figure
    alone, kd = (result.quantization for result in project.load())
    assert [layer.layer[:6] for layer in kd.sensitivity] == ["conv_b", "a_very"] and kd.in_float == ("conv_b",)
    assert alone.sensitivity == () and "not measured" in figure


def test_without_sensitivities_there_is_no_section(project: Project) -> None:
    project.add("kd", quantization={"method": "mse", "sensitivity": []})
    assert "Which layers hurt" not in project.page()


def test_a_name_cannot_break_the_markdown_table(project: Project) -> None:
    project.add("kd", student="a|b\n<i>")
    lines = table.markdown(project.load()).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith(r"| a\|b &lt;i> |")


def test_baseline_comes_first_then_by_name(project: Project) -> None:
    for student in ("kd", "zero", "fitnet"):
        project.add(student, **({"loss": "none"} if student == "zero" else {}))
    assert [result.student for result in project.load()] == ["zero", "fitnet", "kd"]


def test_one_student_on_two_devices_has_two_labels(project: Project) -> None:
    project.add("kd")
    other = results_of("kd", device={"id": "orin"})
    (project.results / "kd-orin.json").write_text(json.dumps(other), encoding="utf-8")
    assert [result.label for result in project.load()] == ["kd @ cpu-x", "kd @ orin"]
    assert "compare latencies only on the same device" in project.page()
    (project.results / "kd-again.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(UserError, match=r"kd-orin\.json and .*kd-again\.json both hold student 'kd'"):
        project.load()


def test_drop_and_speed_up_are_computed_where_the_file_lacks_them(project: Project) -> None:
    project.add("kd", drop=None, speedup_int8_vs_fp32=None)
    (result,) = project.load()
    assert result.drop.versus_float == pytest.approx(0.4)
    assert result.drop.versus_teacher == pytest.approx(6.1)
    assert result.drop.worst_class_drop == pytest.approx(0.4)
    assert result.speedup == pytest.approx(12.0 / 5.7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "top level: got []; allowed: an object"),
        ("{}", "student: missing; it is required"),
        ('{"student": ""}', 'student: got ""; allowed: a text that is not empty'),
        ('{"student": "kd", "loss": 5}', "loss: got 5; allowed: a text"),
        ('{"student": "kd", "images": 4.5}', "images: got 4.5; allowed: a whole number"),
        ('{"student": "kd", "images": -4}', "images: got -4; allowed: 0 or more"),
        ('{"student": "kd", "images": true}', "images: got true; allowed: a whole number"),
        ('{"student": "kd", "classes": "road"}', 'classes: got "road"; allowed: a list'),
        ('{"student": "kd", "classes": ["road", null]}', "classes[1]: got null; allowed: a text"),
        ('{"student": "kd", "drop": [1]}', "drop: got [1]; allowed: an object"),
        ('{"student": "kd", "device": "orin"}', 'device: got "orin"; allowed: an object'),
        ('{"student": "kd", "variants": {"int8": "slow"}}', 'variants.int8: got "slow"; allowed: an object'),
        ('{"student": "kd", "speedup_int8_vs_fp32": NaN}', "speedup_int8_vs_fp32: got NaN; allowed: a finite number"),
        ('{"student": "kd", "teacher": {"miou": "71"}}', 'teacher.miou: got "71"; allowed: a number'),
        ('{"student": "kd", "teacher": {"miou": true}}', "teacher.miou: got true; allowed: a number"),
        ('{"student": "kd", "variants": {"int8": {"miou": 710}}}', "variants.int8.miou: got 710; allowed: 100 or less"),
        ('{"student": "kd", "passed": "yes"}', 'passed: got "yes"; allowed: true or false'),
        ('{"student": "kd", "violations": [{"what": null}]}', "violations[0].what: missing; it is required"),
        (
            '{"student": "kd", "classes": ["a"], "drop": {"class_intervals": [[1]]}}',
            "drop.class_intervals[0][1]: missing; it is required",
        ),
        (
            '{"student": "kd", "classes": ["a"], "objects": {"recall_int8": [[1, 2, 101]]}}',
            "objects.recall_int8[0][2]: got 101; allowed: 100 or less",
        ),
        (
            '{"student": "kd", "classes": ["a", "b"], "teacher": {"per_class_iou": [1]}, "drop": {"classes": [1]}}',
            "teacher.per_class_iou: has 1 entries, drop.classes: has 1 entries; "
            "allowed: 2, as in classes, with null where a value is missing",
        ),
    ],
)
def test_an_invalid_file_is_one_clear_error(project: Project, text: str, message: str) -> None:
    file = project.results / "kd.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        project.load()
    first, problem, advice = str(caught.value).splitlines()
    assert (first, problem.strip()) == (f"{file}: 1 problem", message)
    assert advice == "measure again with: dvc repro -f check (results of a device: run its bundle again)"


@pytest.mark.parametrize("text", [b"", b'{"student": "kd", ', b"[" * 9999, b'{"student": "\xff"}', b"<html>"])
def test_a_file_that_is_not_json_is_one_clear_error(project: Project, text: bytes) -> None:
    file = project.results / "kd.json"
    file.write_bytes(text)
    with pytest.raises(UserError, match=r"kd\.json: 1 problem\n  not JSON: .* line 1 column \d+\nmeasure again with: "):
        project.load()
    file.unlink()
    file.mkdir()
    with pytest.raises(UserError, match=r"kd\.json: cannot be read \(Is a directory\); measure again with: "):
        project.load()


def test_all_wrong_values_are_reported_together(project: Project) -> None:
    wrong = {"student": "kd", "images": "4", "teacher": {"miou": 101}, "unstable": [3], "classes": ["x" * 99, 1]}
    (project.results / "kd.json").write_text(json.dumps({**wrong, "input_size": "x" * 99}), encoding="utf-8")
    with pytest.raises(UserError, match=r"kd\.json: 5 problems") as caught:
        project.load()
    paths = [line.strip().split(":")[0] for line in str(caught.value).splitlines()[1:-1]]
    assert paths == ["images", "classes[1]", "input_size", "teacher.miou", "unstable[0]"]
    assert 'input_size: got "' + "x" * 59 + "...; allowed: a list" in str(caught.value)


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dvc repro check"):
        load(tmp_path / "results")


def test_summary_names_gains_and_losses(project: Project) -> None:
    project.add("kd")
    (result,) = project.load()
    expected = f"2.1{X} faster and 3.6{X} smaller than its float version for 0.4 mIoU; 6.1 below the teacher"
    assert wording.summary(result) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"speedup_int8_vs_fp32": 0.5}, f"2.0{X} slower and 3.6{X} smaller than its float version for 0.4 mIoU"),
        ({"speedup_int8_vs_fp32": 1.02}, f"as fast as and 3.6{X} smaller than its float version"),
        ({"unstable": ["int8"]}, "latency unstable"),
        (
            {"drop": {"miou_int8_vs_float": 0.01, "miou_int8_vs_teacher": -0.3}},
            "at no cost in mIoU; 0.3 above the teacher",
        ),
        ({"drop": {"miou_int8_vs_float": -0.3}}, "its float version and 0.3 mIoU better"),
    ],
)
def test_summary_never_calls_a_loss_a_gain(project: Project, changes: dict[str, Any], expected: str) -> None:
    project.add("kd", **changes)
    assert expected in wording.summary(project.load()[0])


def test_a_failing_student_never_leads_while_another_passes(project: Project) -> None:
    project.add("kd")
    strong = results_of("fitnet")["variants"]
    strong["int8"]["miou"] = 70.0
    project.add("fitnet", variants=strong, passed=False)
    best = wording.best(project.load())
    assert best is not None
    assert best.student == "kd"


def test_page_is_self_contained(project: Project) -> None:
    for student in ("none", "kd"):
        project.add(student)
        project.predict(student)
    text = project.page()
    assert not re.findall(r"https?://", re.sub(r'xmlns(:\w+)?="[^"]*"', "", text))
    assert not re.findall(r"<script|@import|<iframe", text)
    assert {link[:5] for link in re.findall(r'(?:src|href)="([^"#][^"]*)"', text)} == {"data:"}
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= set(ids)


def test_page_is_the_same_bytes_every_time(project: Project) -> None:
    project.add("kd")
    project.predict("kd")
    assert project.page() == project.page()


def test_page_escapes_names(tmp_path: Path) -> None:
    project = Project(tmp_path, classes=["road", EVIL, "car"])
    project.add("kd", student="<img src=x>", violations=[{"budget": "b", "what": EVIL}], device={"name": EVIL})
    text = project.page()
    assert "<script" not in text
    assert "<img src=x>" not in text
    assert "&lt;script&gt;" in text


def test_missing_values_are_shown_as_not_measured(project: Project) -> None:
    variants = results_of("kd")["variants"]
    project.add("kd", variants={"torch": variants["torch"], "int8": None}, drop=None, speedup_int8_vs_fp32=None)
    results = project.load(expected=["kd", "dkd"])
    row = cells(table.markdown(results), "kd")
    assert (row["float mIoU"], row["INT8 mIoU"], row["verdict"]) == ("65.3", "not measured", "not measured")
    assert set(list(cells(table.markdown(results), "dkd").values())[1:]) == {"not measured"}
    text = project.page(expected=["kd", "dkd"])
    assert "Nothing is measured in INT8 yet" in text
    assert "not measured" in text
    assert 'class="badge pass"' not in text


def test_page_of_no_results_and_of_an_almost_empty_one(project: Project) -> None:
    assert "Nothing is measured" in project.page()
    (project.results / "kd.json").write_text('{"student": "kd"}', encoding="utf-8")
    assert "not measured" in project.page()


def test_violations_and_unstable_latencies_are_visible(project: Project) -> None:
    what = "INT8 loses 1.3 mIoU against float; the budget allows 1.0"
    violation = {"budget": "miou_drop", "variant": "int8", "limit": 1.0, "got": 1.3, "what": what}
    project.add("kd", passed=True, violations=[violation], unstable=["int8"])
    text = project.page()
    assert what in text
    assert 'class="badge fail"' in text
    assert "No measured student keeps its budgets" in text
    assert "5.70 (unstable)" in table.markdown(project.load())
    assert "| fail |" in table.markdown(project.load())


def test_absent_class_is_named(project: Project) -> None:
    variants = results_of("kd")["variants"]
    for variant in variants.values():
        variant["per_class_iou"][2] = None
    project.add("kd", variants=variants, absent_classes=["car"])
    text = project.page()
    assert "car; left out of mIoU" in text
    assert ">absent<" in text


def test_samples_show_what_int8_broke(project: Project) -> None:
    project.add("kd")
    project.predict("kd")
    text = project.page()
    assert text.count("data:image/jpeg;base64,") == 4, "frames"
    assert text.count("data:image/png;base64,") == 4 * 4, "labels and errors"
    assert "INT8 is wrong on 3.1% of the labelled pixels, only INT8 on 3.1%" in text  # one row of 32


def test_predictions_of_another_data_set_are_refused(project: Project) -> None:
    project.add("kd")
    project.predict("kd", names=["a", "elsewhere"])
    with pytest.raises(UserError, match=r"predictions/kd: holds frame 'elsewhere', .*; predict again with: dvc repro"):
        project.page()


def test_invalid_names_of_predictions_are_refused(project: Project) -> None:
    project.add("kd")
    project.predict("kd")
    meta = project.predictions / "kd/meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "names": "abc"}))
    with pytest.raises(UserError, match=r'meta\.json: 1 problem\n  names: got "abc"; allowed: a list\npredict again'):
        project.page()


def test_results_of_another_data_set_are_refused(project: Project) -> None:
    (project.results / "kd.json").write_text(json.dumps(results_of("kd", ["sky", "sea", "sand"])), encoding="utf-8")
    with pytest.raises(UserError, match="sky, sea, sand"):
        project.page()


def stage(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
    return int(runpy.run_path(str(ROOT / "stages/report.py"))["main"]())


def test_stage_writes_page_and_table_and_the_verb_shows_them(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for student in load_params(ROOT / "params.yaml", kinds=()).students:
        project.add(student)
    out = tmp_path / "report"
    places = ("--dataset", project.dataset, "--predictions", project.predictions, "--out", out)
    assert stage(monkeypatch, "--results", project.results, *places) == 0
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "table.md"]
    assert (out / "table.md").read_text(encoding="utf-8") == table.markdown(project.load())
    project.predict("kd")
    shutil.copy(ROOT / "results/comparison.json", project.results)
    assert stage(monkeypatch, "--results", project.results, *places, "--no-frames") == 0
    text = (out / "index.html").read_text(encoding="utf-8")
    assert "<img" not in text and "This page shows no frames" in text
    heading, _, first, *_ = (out / "table.md").read_text(encoding="utf-8").split("\n## ")[1].splitlines()
    assert heading == "Losses compared" and first.startswith("| name | loss | best mIoU |")
    places = ["--params", str(ROOT / "params.yaml"), "--results", str(project.results), "--report", str(out)]
    assert verbs.run("show", places) == 0
    shown = capsys.readouterr().out
    assert "64.9" in shown
    assert str(out / "index.html") in shown
    (project.results / "kd.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"kd\.json"):
        verbs.run("show", places)
