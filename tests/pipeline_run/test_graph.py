"""The whole graph, at a tiny size, as a user runs it: complete, minimal on change, reproducible in a second clone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

from pipeline import artifact
from pipeline.export.onnx_file import AWARE
from pipeline.frames import write_png
from pipeline.video.engines import chosen
from tests.preparation.conftest import scene

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

TINY_MODEL = {
    "name": "smp",
    "architecture": "fpn",
    "encoder": "tu-tf_mobilenetv3_small_minimal_100",
    "encoder_weights": None,
    "options": {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32},
}


def tiny(params: dict[str, Any]) -> None:
    """Shrink the run until it takes a minute; budgets off, because six steps teach nothing."""
    params["input_size"] = [64, 96]
    params["datasets"]["streets"].update(train=24, val=8, sequence=4, size=[64, 96])
    for recipe in (params["teacher"]["train"], params["distill"]):
        recipe.update(steps=6, warmup=1, validate_every=3, batch_size=4)
    params["teacher"]["model"] = TINY_MODEL
    params["students"] = {
        "alone": {"model": TINY_MODEL, "loss": "none"},
        "kd": {"model": TINY_MODEL, "loss": "kd", "qat": True},
    }
    params["qat"].update(steps=4, warmup=1, validate_every=2)
    params["calibrate"].update(images=11, allow_missing_classes=True)
    params["quantize"]["trial_images"] = 3
    params["check"].update(runs=20, warmup=2, seconds=0.0)
    params["compare"]["student"] = "kd"
    params["budgets"].update(miou_drop=None, class_drop=None, latency_p99_ms=None, size_mb=None)


def clone(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A fresh repository of the tracked files, with params.yaml changed and nothing made yet."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if not name.startswith(("results/", "tests/")) and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    change(params)
    yaml.dump(params, folder / "params.yaml")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


def dvc(folder: Path, *arguments: str) -> tuple[int, str, set[str]]:
    """Exit status, output, and the stages that ran."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "XDG_CACHE_HOME": str(folder.parent / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    return done.returncode, output, set(re.findall(r"Running stage '([^']+)'", output))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = clone(tmp_path_factory.mktemp("project"), tiny)
    status, output, _ = dvc(folder, "repro")
    assert status == 0, output
    return folder


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


def test_quantisation_change_reruns_quantize_and_what_follows(project: Path) -> None:
    folder = project.with_name("quantize")
    shutil.copytree(project, folder, symlinks=True)
    text = (folder / "params.yaml").read_text()
    assert "method: mse" in text
    (folder / "params.yaml").write_text(text.replace("method: mse", "method: minmax"))
    status, output, ran = dvc(folder, "repro")
    each = {f"{stage}@{student}" for stage in ("qat", "quantize", "convert", "check") for student in ("alone", "kd")}
    again = {"export@kd", "calibrate@kd"}  # fine-tuned with other ranges; the other student was handed on as it was
    assert status == 0 and ran == {"device", "raw_data", "sources", "report", "gate"} | each | again, output


def test_another_loss_retrains_only_that_student(project: Path) -> None:
    folder = project.with_name("loss")
    shutil.copytree(project, folder, symlinks=True)
    before = (folder / "artifacts/sources/distill/alone.json").read_bytes()
    status, output, ran = dvc(folder, "exp", "run", "-S", "students.kd.loss=[kd,fitnet]")
    each = {f"{stage}@kd" for stage in ("distill", "qat", "export", "calibrate", "quantize", "convert", "check")}
    assert status == 0 and ran == {"device", "raw_data", "sources", "report", "gate"} | each, output
    assert json.loads((folder / "results/kd.json").read_text())["loss"] == "kd+fitnet"
    loss = json.loads((folder / "artifacts/students/kd/meta.json").read_text())["loss"]
    assert loss["name"] == "kd+fitnet" and sorted(loss["options"]) == ["fitnet", "kd"]
    costs = json.loads((folder / "artifacts/costs/kd.json").read_text())
    assert costs["seconds_per_step"] > 0 and costs["parameters_of_loss"] > 0
    assert (folder / "artifacts/sources/distill/alone.json").read_bytes() == before


def test_a_teacher_from_elsewhere_is_evaluated_and_watched(project: Path) -> None:
    """The teacher's own weights as a file, its classes in another order: the same mIoU without training."""
    folder = project.with_name("elsewhere")
    shutil.copytree(project, folder, symlinks=True)
    trained = json.loads((folder / "artifacts/teacher/meta.json").read_text())
    tensors = load_file(folder / "artifacts/teacher/weights.safetensors")
    order = list(reversed(range(len(trained["classes"]))))
    state = {name.removeprefix("net."): value for name, value in tensors.items()}
    for name in ("segmentation_head.0.weight", "segmentation_head.0.bias"):
        state[name] = state[name][order].contiguous()
    save_file(state, folder / "foreign.safetensors")
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["teacher"]["train"] = False
    params["teacher"]["model"]["weights"] = "foreign.safetensors"
    params["teacher"]["model"]["weights_classes"] = [trained["classes"][i].upper() for i in order]
    yaml.dump(params, folder / "params.yaml")
    status, output, ran = dvc(folder, "repro", "train_teacher")
    assert status == 0 and ran == {"raw_data", "sources", "train_teacher"}, output
    meta = json.loads((folder / "artifacts/teacher/meta.json").read_text())
    assert meta["trained"] is False and meta["initial_weights"]["source"] == "foreign.safetensors"
    assert meta["metrics"]["val"] == trained["metrics"]["val"]
    status, output, ran = dvc(folder, "repro", "train_teacher")
    assert status == 0 and ran == {"raw_data", "sources"}, output
    state["decoder.p5.bias"] += 0.01
    save_file(state, folder / "foreign.safetensors")
    status, output, ran = dvc(folder, "repro", "train_teacher")
    assert status == 0 and ran == {"raw_data", "sources", "train_teacher"}, output


def test_a_new_loss_file_trains_nothing(project: Path) -> None:
    folder = project.with_name("new")
    shutil.copytree(project, folder, symlinks=True)
    shutil.copy(folder / "pipeline/losses/kd.py", folder / "pipeline/losses/another.py")
    status, output, ran = dvc(folder, "repro")
    assert status == 0 and ran == {"device", "raw_data", "sources"}, output


def test_a_changed_loss_file_retrains_the_students_that_use_it(project: Path) -> None:
    folder = project.with_name("changed")
    shutil.copytree(project, folder, symlinks=True)
    with (folder / "pipeline/losses/kd.py").open("a") as stream:
        stream.write("\n# changed\n")
    status, output, ran = dvc(folder, "repro", "distill")
    assert status == 0 and ran == {"raw_data", "sources", "distill@kd"}, output


def test_another_seed_retrains_students_under_the_same_teacher(project: Path) -> None:
    folder = project.with_name("seed")
    shutil.copytree(project, folder, symlinks=True)
    before = (folder / "artifacts/students/kd/meta.json").read_bytes()
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(re.sub(r"(\ndistill:.*\n  seed:)", r"\1 1 ", text))
    status, output, ran = dvc(folder, "repro", "distill@kd")
    assert status == 0 and ran == {"raw_data", "sources", "distill@kd"}, output
    assert (folder / "artifacts/students/kd/meta.json").read_bytes() != before


def test_frames_without_labels_train_students_and_no_teacher(project: Path) -> None:
    """Also in a clone that has the results and not the frames."""
    folder = project.with_name("unlabelled")
    shutil.copytree(project, folder, symlinks=True)
    drives = folder / "my drives"
    for number in range(6):
        write_png(drives / f"{number}.png", scene(number))
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["distill"]["unlabelled"]["sources"] = ["my drives"]
    yaml.dump(params, folder / "params.yaml")
    looks, changed = {"raw_data", "sources"}, {"prepare_unlabelled", "distill@kd"}
    kept = []
    for number, look, expected in ((0, 0, looks | changed), (1, 1, looks), (2, 12, looks | changed)):
        write_png(drives / f"{number}.png", scene(look))
        status, output, ran = dvc(folder, "repro", "distill@kd")
        assert status == 0 and ran == expected, output
        unlabelled = artifact.load(folder / "artifacts/unlabelled", kind="unlabelled")
        student = artifact.load(folder / "artifacts/students/kd", kind="network")
        assert student.meta["parents"]["unlabelled"] == unlabelled.hash
        kept.append((unlabelled.hash, student.hash))
    assert kept[0] == kept[1] and not set(kept[0]) & set(kept[2])

    twin = project.with_name("without frames")
    for name in ("dvc.lock", "dvc.yaml", "params.yaml", "pipeline", "stages", ".git", ".dvc"):
        copy = shutil.copytree if (folder / name).is_dir() else shutil.copy2
        twin.mkdir(exist_ok=True)
        copy(folder / name, twin / name)
    status, output, _ = dvc(twin, "checkout")
    assert status == 0, output
    status, output, ran = dvc(twin, "repro", "distill@kd")
    assert status == 0 and ran == looks and "my drives: no such file or folder" in output, output


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
        return {
            out["path"]: out["md5"] for out in outs if not out["path"].endswith(".json") and out["path"] != "report"
        }

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
