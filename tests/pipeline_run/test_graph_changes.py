"""After a change, `dvc repro` runs the stages that depend on it, and no others."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

from pipeline import artifact
from pipeline.frames import write_png
from tests.pipeline_run.conftest import dvc
from tests.preparation.conftest import scene

pytestmark = pytest.mark.slow


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
