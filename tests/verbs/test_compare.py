"""Experiments: values written for DVC, and messages of runs that fail or are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from pipeline import verbs
from pipeline.errors import UserError
from pipeline.verbs import _experiments, compare

ROOT = Path(__file__).parents[2]
VALUES = [
    "kd",
    ["kd", "fitnet"],
    {"kd": {}, "fitnet": {"weight": 5.0, "groups": [1, 2], "on": True, "off": False, "none": None}},
    {"cwd": {"lr": 1e-05, "big": 1e20, "text": 'it\'s, a {b} \\ "c"', "empty": ""}},
    ["true", "null", "nan", "1"],
    0,
    2**32 - 1,
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_is_read_back_as_it_was(value: Any) -> None:
    override = OverridesParser.create().parse_override(f"students.kd.loss={_experiments.literal(value)}")
    assert plain(override.value()) == value


def plain(value: Any) -> Any:
    """Without Hydra's quotes."""
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.text if hasattr(value, "text") else value


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "start"]):
        subprocess.run([*git, *command], check=True)
    return tmp_path


def test_untracked_files_are_named(repository: Path) -> None:
    (repository / "pipeline").mkdir()
    (repository / "pipeline/new.py").write_text("")
    (repository / "other.py").write_text("")
    assert _experiments.untracked("pipeline", "stages") == ["pipeline/new.py"]


def test_the_error_of_a_failed_run_ends_with_its_last_lines(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = "\n".join(f"line {index}" for index in range(40))
    monkeypatch.setattr(_experiments, "_call", lambda command: (255, f"{log}\nerror: the loss is not finite"))
    with pytest.raises(UserError, match="experiment x-0: failed with status 255") as caught:
        _experiments.run("x-0", target="distill@kd", params={"distill.seed": 0})
    lines = str(caught.value).splitlines()
    assert lines[-1] == "  error: the loss is not finite" and len(lines) == 1 + _experiments.TAIL


def test_a_run_is_a_list_of_arguments_and_replaces_one_of_its_name(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    ref = f"refs/exps/{head[:2]}/{head[2:]}/x-0"
    subprocess.run(["git", "update-ref", ref, head], check=True)
    commands: list[list[str]] = []

    def call(command: list[str]) -> tuple[int, str]:
        commands.append(command)
        assert not subprocess.run(["git", "for-each-ref", ref], capture_output=True, text=True, check=True).stdout
        subprocess.run(["git", "update-ref", ref, head], check=True)
        return 0, "Running stage 'distill@kd':\n" if len(commands) == 1 else "Stage 'distill@kd' is cached"

    monkeypatch.setattr(_experiments, "_call", call)
    changed = {"students.kd.loss": ["kd", "at"], "distill.seed": 1}
    assert _experiments.run("x-0", target="distill@kd", params=changed) == (head, True)
    assert _experiments.run("x-0", target="distill@kd", params=changed) == (head, False)
    assert commands[0][1:7] == ["-m", "dvc", "exp", "run", "--temp", "--name"] and commands[0][-1] == "distill@kd"
    assert "students.kd.loss=[kd,at]" in commands[0] and "--force" not in commands[0] and "-f" not in commands[0]


def test_an_interruption_reaches_the_run_which_then_cleans_up(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time\ntry:\n    pathlib.Path(sys.argv[1] + '/up').touch(); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.3); pathlib.Path(sys.argv[1] + '/clean').touch()\n"
    )

    def interrupt() -> None:
        deadline = time.monotonic() + 30
        while not (tmp_path / "up").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        _experiments._call([sys.executable, "-c", program, str(tmp_path)])
    assert (tmp_path / "clean").exists()


def test_compare_refuses_an_unknown_student_before_it_runs_anything(tmp_path: Path) -> None:
    params = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("student: kd\n", "student: kdd\n")
    (tmp_path / "params.yaml").write_text(params, encoding="utf-8")
    script = [sys.executable, "-m", "pipeline.verbs", "compare", "--params", str(tmp_path / "params.yaml")]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "students has no 'kdd'; did you mean 'kd'?" in done.stderr
    assert "runs:" not in done.stdout


def test_compare_refuses_another_folder_than_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"has no dvc.yaml, pipeline, stages: .* run it in the root of segpress's git"):
        verbs.run("compare", ["--params", str(ROOT / "params.yaml")])


def test_a_stage_that_cannot_be_reproduced_is_named(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="train_teacher: failed with status"):
        _experiments.reproduce("train_teacher")
    assert "not inside of a DVC repository" in capfd.readouterr().err


def test_frames_without_labels_and_the_teacher_are_made_in_the_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary folder does not have the files of relative paths in params.yaml."""
    made: list[str] = []

    def reproduce(target: str) -> None:
        made.append(target)
        if target == "train_teacher":
            raise KeyboardInterrupt

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(_experiments, "untracked", lambda *folders: [])
    monkeypatch.setattr(_experiments, "reproduce", reproduce)
    assert compare.main([]) == 130 and made == ["prepare_unlabelled", "train_teacher"]
