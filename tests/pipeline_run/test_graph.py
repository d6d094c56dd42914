"""The whole graph, at a tiny size, as a user runs it: complete, compared, reproducible in a second clone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.export.onnx_file import AWARE
from pipeline.video.engines import chosen
from tests.pipeline_run.conftest import clone, dvc, tiny

pytestmark = pytest.mark.slow

VARIANTS = {"torch", "fp32", "fp16", "int8"}


VARIANTS = {"torch", "fp32", "fp16", "int8"}


def test_results_hold_what_they_promise(project: Path) -> None:
    for student, loss in (("alone", "none"), ("kd", "kd")):
        results = json.loads((project / f"results/{student}.json").read_text())
        assert (results["student"], results["loss"], results["dataset"], results["split"]) == (
            student,
            loss,
            "streets",
            "val",
        )
        assert set(results["variants"]) == VARIANTS and results["images"] == 8
        assert 0 <= results["teacher"]["miou"] <= 100 and results["passed"] is True and results["violations"] == []
        for variant in results["variants"].values():
            assert len(variant["per_class_iou"]) == len(results["classes"]) and re.fullmatch(
                r"[0-9a-f]{64}", variant["sha256"]
            )
            latency = variant["latency_ms"]
            assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] and latency["n"] >= 10
        aware = json.loads((project / f"artifacts/engines/{student}/int8/meta.json").read_text()).get(AWARE)
        assert (aware is not None) == (student == "kd")
        engine = project / f"artifacts/engines/{student}/int8/engine.onnx"
        assert results["variants"]["int8"]["size_bytes"] == engine.stat().st_size
        miou = {name: variant["miou"] for name, variant in results["variants"].items()}
        if aware is None:  # torch is the student before it is fine-tuned
            assert miou["fp32"] == pytest.approx(miou["torch"], abs=0.02), "the same graph; ties may differ"
        assert miou["fp16"] == pytest.approx(miou["fp32"], abs=0.2), "measured 0.017 and 0.003"
        assert miou["int8"] == pytest.approx(miou["fp32"], abs=1.0), "measured 0.18 and 0.16 after six steps"
        built = project / f"artifacts/engines/{student}"
        assert chosen(built) == built / results["fastest"]["variant"], "the record is beside the engines"
        assert results["int8_exact_agreement"] > 95, "measured 99.3 percent of the labels"
        assert [(each["role"], each["of"]) for each in results["licences"]] == [("data", "streets")]
        assert results["commercial"] is True
        card = (project / f"results/{student}.md").read_text()
        assert "Commercial use: **yes**" in card and f"INT8 mIoU: {miou['int8']:.2f}" in card
        assert "sequence 4, train 24, val 8" in card and "batch size 4, seed 0" in card
        assert f"- Teacher: {'none' if loss == 'none' else 'smp fpn'}" in card
    ignored = subprocess.run(["git", "check-ignore", "results/kd.md"], cwd=project, check=False, capture_output=True)
    assert ignored.returncode == 1, "git keeps the card, like the results"
    page = (project / "report/index.html").read_text()
    assert "alone" in page and "kd" in page and "<svg" in page


def test_metrics_and_plots_show(project: Path) -> None:
    status, output, _ = dvc(project, "metrics", "show", "--json")
    shown = json.loads(output[output.index("{") :])
    files = shown[""]["data"] if "" in shown else shown
    assert status == 0 and "results/kd.json" in json.dumps(files)
    status, output, _ = dvc(project, "plots", "show", "-o", str(project / "plots"))
    assert status == 0, output
    html = (project / "plots/index.html").read_text()
    assert "bar_horizontal" in html or "results/kd.csv" in html


def test_a_second_repro_only_looks_at_device_raw_data_and_sources(project: Path) -> None:
    status, output, ran = dvc(project, "repro")
    assert status == 0 and ran == {"device", "raw_data", "sources"}, output


def test_losses_are_compared_without_touching_the_workspace(project: Path) -> None:
    """Two losses, two seeds; a second time everything comes from the run cache, and the same file is written."""
    folder = project.with_name("compare")
    shutil.copytree(project, folder, symlinks=True)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["compare"].update(
        student="kd", seeds=[0, 1], losses={"none": "none", "mix": {"kd": {"weight": 2.0}, "at": {}}}
    )
    yaml.dump(params, folder / "params.yaml")
    before = {path: path.read_bytes() for path in (folder / "artifacts").rglob("*") if path.is_file()}
    written = []
    for how in ("s; ", "from the run cache"):
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.verbs", "compare", "--markdown", "table.md"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count(how) >= 3 and "4/4  mix, seed 1" in done.stdout, done.stdout
        written.append((folder / "results/comparison.json").read_bytes())
    assert written[0] == written[1]
    found = json.loads(written[0])
    assert [(row["name"], row["loss"]) for row in found["rows"]] == [("none", "none"), ("mix", "kd+at")]
    assert found["rows"][1]["options"]["kd"]["weight"] == 2.0
    assert all(len(row[weights]["miou"]) == 2 for row in found["rows"] for weights in ("best", "last"))
    assert found["teacher"]["sha256"] and "| mix | kd+at |" in (folder / "table.md").read_text()
    assert before == {path: path.read_bytes() for path in (folder / "artifacts").rglob("*") if path.is_file()}
    status, output, ran = dvc(folder, "repro")
    assert status == 0 and ran == {"device", "raw_data", "sources", "report", "gate"}, output
    assert "Losses compared" in (folder / "report/index.html").read_text()
    (folder / "pipeline/losses/unknown.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.verbs", "compare"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "git does not track pipeline/losses/unknown.py" in done.stderr


def test_a_broken_budget_fails_the_gate_and_keeps_the_results(project: Path) -> None:
    folder = project.with_name("budget")
    shutil.copytree(project, folder, symlinks=True)
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(re.sub(r"size_mb:.*", "size_mb: 0.001", text))
    status, output, ran = dvc(folder, "repro")
    assert status != 0 and "broke a budget" in output and {"report", "gate"} <= ran
    results = json.loads((folder / "results/kd.json").read_text())
    assert not results["passed"] and results["violations"][0]["budget"] == "size_mb"
    assert (
        "size_mb" in (folder / "report/index.html").read_text()
        or "the budget allows" in (folder / "report/index.html").read_text()
    )


def test_two_clones_agree_on_everything_but_latency(project: Path, tmp_path: Path) -> None:
    twin = clone(tmp_path / "twin", tiny)
    status, output, _ = dvc(twin, "repro")
    assert status == 0, output

    def hashes(folder: Path) -> dict[str, str]:
        lock = YAML(typ="safe").load(folder / "dvc.lock")
        outs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
        timed = (".json", ".md")  # results and cards
        return {out["path"]: out["md5"] for out in outs if not out["path"].endswith(timed) and out["path"] != "report"}

    assert hashes(project) == hashes(twin)

    def untimed(folder: Path, student: str) -> Any:
        results = json.loads((folder / f"results/{student}.json").read_text())
        for variant in results["variants"].values():
            del variant["latency_ms"]
        for key in ("speedup_int8_vs_fp32", "fastest", "unstable", "conditions"):
            del results[key]
        results["warnings"] = [warning for warning in results["warnings"] if warning["budget"] != "min_speedup"]
        return results

    for student in ("alone", "kd"):
        assert untimed(project, student) == untimed(twin, student)
