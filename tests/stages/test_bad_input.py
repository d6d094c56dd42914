"""Stages as a user runs them: bad input is one message and status 1, an interruption 130; no partial files remain."""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ruamel.yaml import YAML

from pipeline import artifact, runtimes
from pipeline.evaluation.device import describe
from pipeline.labels import LabelSpec

ROOT = Path(__file__).parents[2]
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("*.py"))
WITHOUT_PARAMS = ("infer",)
LABELS = LabelSpec(names=("road", "car"), palette=((1, 1, 1), (2, 2, 2)))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def stage(name: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "stages" / f"{name}.py"), *map(str, arguments)]


def start(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A stage in a process of its own, which takes seconds to import the libraries."""
    return subprocess.run(
        stage(name, *arguments), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )


def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A stage as a script in this process: its status and what it prints. An exception that it lets pass is raised."""
    script = stage(name, *arguments)[1:]
    out, errors = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGINT)  # stages/infer.py changes it when it is the main program
    with (
        contextlib.chdir(ROOT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors),
        mock.patch.object(sys, "argv", script), pytest.raises(SystemExit) as ended,
    ):  # fmt: skip
        try:
            runpy.run_path(script[0], run_name="__main__")
        finally:
            signal.signal(signal.SIGINT, handler)
    status = ended.value.code
    assert isinstance(status, int)
    return subprocess.CompletedProcess(script, status, out.getvalue(), errors.getvalue())


def refused(name: str, *arguments: str | Path, out: Path | None) -> str:
    """The message of a stage that must fail: status 1, one error, no traceback, no output, no temporary files."""
    done = run(name, *arguments, *(["--out", out] if out else []))
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("error: ") == 1
    assert out is None or not out.parent.exists() or list(out.parent.iterdir()) == []
    return done.stderr[done.stderr.index("error: ") :]


def params(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The committed params.yaml, changed."""
    raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    change(raw)
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML().dump(raw, stream)
    return tmp_path / "params.yaml"


def fake(path: Path, kind: str, **meta: Any) -> Path:
    """An artifact with valid meta.json and a useless payload."""
    with artifact.create(path, kind=kind, meta={**LABELS.to_meta(), "input_size": [64, 96], **meta}) as folder:
        (folder / "payload").write_text("x")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "artifacts" / "out"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return fake(tmp_path / "dataset", "dataset", dataset="x", splits={"train": [], "val": []})


def test_a_process_has_the_status_and_the_messages(tmp_path: Path, out: Path) -> None:
    """The other tests run stages in this process."""
    arguments = ("--params", tmp_path / "none.yaml", "--out", out)
    done, alike = start("prepare", *arguments), run("prepare", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (alike.returncode, alike.stdout, alike.stderr)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {tmp_path}/none.yaml: no such file")


def test_prepare_without_its_data(tmp_path: Path, out: Path) -> None:
    def camvid(raw: dict[str, Any]) -> None:
        raw["dataset"] = "camvid"
        raw["datasets"]["camvid"]["root"] = str(tmp_path / "nowhere")

    message = refused("prepare", "--params", params(tmp_path, camvid), out=out)
    assert message.startswith("error: datasets.camvid.root: ") and "nowhere is not a folder; set it to" in message


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_prepare_keeps_complete_samples(tmp_path: Path, out: Path, number: int) -> None:
    file = params(tmp_path, lambda raw: raw["datasets"]["streets"].update(train=5_000))
    with subprocess.Popen(
        stage("prepare", "--params", file, "--out", out), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not list(out.parent.glob(".out.unfinished/files/train/labels/*.png")):
                assert process.poll() is None and time.monotonic() < deadline, "prepare never began"
                time.sleep(0.05)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()  # so that a failing test does not wait for it
    assert process.returncode == 130
    assert "interrupted: complete samples are kept" in errors and "Traceback" not in errors
    assert [path.name for path in out.parent.iterdir()] == [".out.unfinished"]


def test_params_that_are_missing_or_wrong(tmp_path: Path, out: Path) -> None:
    onnx = ("--onnx", tmp_path, "--int8", tmp_path, "--device", tmp_path)
    message = refused("convert", *onnx, "--params", tmp_path / "none.yaml", out=out)
    assert message == f"error: {tmp_path}/none.yaml: no such file; run from the project's root\n"
    file = params(tmp_path, lambda raw: raw["convert"].update(runtime="onnxruntme", onnxruntime={"threds": 1}))
    message = refused("convert", *onnx, "--params", file, out=out)
    assert "2 problems" in message and "did you mean 'onnxruntime'?" in message and "did you mean 'threads'?" in message


def test_convert_without_a_device_or_with_another_device(tmp_path: Path, out: Path) -> None:
    arguments = ("--onnx", tmp_path / "onnx", "--int8", tmp_path / "int8", "--device", tmp_path / "device.json")
    message = refused("convert", *arguments, out=out)
    assert message == f"error: {tmp_path}/device.json: no such file; write it with: dvc repro device\n"
    (tmp_path / "device.json").write_text("{")
    assert "device.json: not JSON" in refused("convert", *arguments, out=out)
    (tmp_path / "device.json").write_text("{}")
    assert "describes another machine or runtime; run dvc repro" in refused("convert", *arguments, out=out)


def test_convert_without_onnx_or_with_another_artifact(tmp_path: Path, out: Path, dataset: Path) -> None:
    name = YAML(typ="safe").load((ROOT / "params.yaml").read_text())["convert"]["runtime"]
    device = tmp_path / "device.json"
    device.write_text(artifact.dump_json(describe(runtimes.build(name, {}), name=name)))
    for onnx, expected in (
        (tmp_path / "none", "has no meta.json"),
        (dataset, "got an artifact of kind 'dataset'; needed: 'onnx'"),
    ):
        message = refused("convert", "--onnx", onnx, "--int8", onnx, "--device", device, out=out)
        assert expected in message and str(onnx) in message


def test_quantize_without_onnx(tmp_path: Path, out: Path, dataset: Path) -> None:
    for name, more in (("calibrate", ()), ("quantize", ("--calibration", tmp_path / "none"))):
        message = refused(name, "--onnx", tmp_path / "none", *more, "--dataset", dataset, out=out)
        assert message == f"error: {tmp_path}/none: has no meta.json, so it is no artifact; create it with: dvc repro\n"


def test_export_with_another_artifact(out: Path, dataset: Path) -> None:
    message = refused("export", "--network", dataset, "--dataset", dataset, out=out)
    assert message == f"error: {dataset}: got an artifact of kind 'dataset'; needed: 'network'; pass another folder\n"


def test_export_with_a_changed_network(tmp_path: Path, out: Path, dataset: Path) -> None:
    network = fake(tmp_path / "network", "network")
    (network / "payload").write_text("changed")
    message = refused("export", "--network", network, "--dataset", dataset, out=out)
    assert "payload 'payload' was changed after it was written" in message and "dvc repro -f" in message


def test_check_without_a_device_or_a_teacher(tmp_path: Path, out: Path, dataset: Path) -> None:
    teacher = fake(tmp_path / "teacher", "network")
    rest = ("--student", teacher, "--engines", tmp_path, "--predictions", tmp_path / "p", "--dataset", dataset)
    device = ("--device", tmp_path / "none.json")
    message = refused("check", *rest, *device, "--teacher", teacher, out=out)
    assert message == f"error: {tmp_path}/none.json: no such file; write it with: dvc repro device\n"
    assert "needed: 'network'" in refused("check", *rest, *device, "--teacher", dataset, out=out)


def results(tmp_path: Path, students: list[str], **changes: Any) -> tuple[str, Path, str, Path]:
    """Results of these students, all passed, the last one changed; as arguments, with params.yaml of two students."""
    (tmp_path / "results").mkdir()
    for name in students:
        facts = {"student": name, "passed": True, "variants": {"int8": {"miou": 50.0}}}
        facts.update(changes if name == students[-1] else {})
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(facts))

    def two(raw: dict[str, Any]) -> None:
        student = next(iter(raw["students"].values()))
        raw["students"] = {"one": student, "two": student}

    return "--results", tmp_path / "results", "--params", params(tmp_path, two)


def test_report_of_damaged_results(tmp_path: Path, out: Path, dataset: Path) -> None:
    arguments = (*results(tmp_path, ["one", "two"], images="many"), "--dataset", dataset, "--predictions", tmp_path)
    message = refused("report", *arguments, out=out)
    assert (
        'two.json: 1 problem\n  images: got "many"; allowed: a whole number' in message
        and "dvc repro -f check" in message
    )
    (tmp_path / "results" / "one.json").write_text('{"student": ')
    assert "one.json: 1 problem\n  not JSON: " in refused("report", *arguments, out=out)


def test_gate_passes_when_every_budget_holds(tmp_path: Path) -> None:
    done = run("gate", *results(tmp_path, ["one", "two"]))
    assert (done.returncode, done.stdout, done.stderr) == (0, "every budget holds for one, two\n", "")


def test_gate_names_undecided_budgets(tmp_path: Path) -> None:
    unknown = [{"budget": "class_drop", "class": "pole", "what": "not enough pixels of pole: 2 of 80 frames show it"}]
    slow = [{"budget": "min_speedup", "what": "INT8 is not faster than float32 (0.67x)"}]
    done = run("gate", *results(tmp_path, ["one", "two"], undecided=unknown, warnings=slow))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "two: INT8 is not faster than float32 (0.67x)",
        "two: not enough pixels of pole: 2 of 80 frames show it",
        "no budget is broken by one, two; some are undecided",
    ]


def test_gate_fails_with_a_table_of_broken_budgets(tmp_path: Path) -> None:
    violation = {"budget": "miou_drop", "variant": "int8", "limit": 1.0, "got": 2.5, "what": "lost 2.5 points"}
    done = run("gate", *results(tmp_path, ["one", "two"], passed=False, violations=[violation]))
    assert done.returncode == 1 and done.stderr.startswith(
        "error: two broke a budget of params.yaml; change the student"
    )
    assert all(text in done.stdout for text in ("broken budgets", "two", "miou_drop", "1.0", "2.5", "lost 2.5 points"))
    assert "one" not in done.stdout


def test_gate_fails_for_students_that_were_not_measured(tmp_path: Path) -> None:
    done = run("gate", *results(tmp_path, ["one"]))
    assert done.returncode == 1 and done.stderr.startswith("error: two: not measured; run dvc repro check. ")
    assert "not measured" in done.stdout and "broke" not in done.stderr


@pytest.mark.parametrize("name", STAGES)
def test_help_says_what_the_stage_does_and_takes(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: {name}.py")
    assert ("--out" in done.stdout) == (name != "gate") and ("--params" in done.stdout) == (name not in WITHOUT_PARAMS)
