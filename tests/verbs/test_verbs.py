"""`segpress`: quick help without imports, one file per verb, and errors in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import verbs
from pipeline.errors import UserError
from pipeline.verbs import __main__, _repository

ROOT = Path(__file__).parents[2]
NAMES = list(verbs.available())
#: Time limit of `segpress --help` in a test, in seconds; it takes 0.2 on an idle machine.
HELP_S = 1.0


def segpress(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.verbs", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_help_lists_every_file_with_its_first_line() -> None:
    done = segpress("--help")
    assert done.returncode == 0 and {"bundle", "check-bundle", "import", "infer", "show"} <= set(NAMES)
    assert len(NAMES) == len(list(verbs.FOLDER.glob("[a-z]*.py"))) and sorted(NAMES) == NAMES
    for name, line in verbs.available().items():
        assert f"  {name:12}  {line}\n" in done.stdout
        assert line.endswith((".", ":")) and 20 < len(line) < 110


@pytest.mark.parametrize("arguments", [["--help"], ["completion", "bash"]])
def test_it_imports_no_library(arguments: list[str]) -> None:
    code = (
        f"import sys\nsys.argv = ['segpress', *{arguments}]\nfrom pipeline.verbs.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print('MODULES', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.partition("MODULES")[2].split())
    assert "pipeline" in loaded
    assert not loaded & {"torch", "numpy", "cv2", "onnx", "onnxruntime", "pydantic", "rich", "dvc"}


def test_help_is_quick() -> None:
    times = []
    for _ in range(3):
        started = time.monotonic()
        segpress("--help")
        times.append(time.monotonic() - started)
    assert min(times) < HELP_S


@pytest.mark.parametrize("name", NAMES)
def test_a_verb_says_what_it_does_and_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["segpress", name, "--help"])
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert printed.startswith("usage: ") and name in printed and "--help" in printed
    if name != "infer":
        assert printed.startswith(f"usage: segpress {name}") and verbs.available()[name] in printed


def test_an_unknown_verb_gets_the_closest_name() -> None:
    done = segpress("bundel")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: segpress has no verb 'bundel'; did you mean 'bundle'?\n"
    assert segpress().returncode == 2


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, package in (("train", "torch.nn"), ("base", "cv2")):
        (tmp_path / f"{name}_.py").write_text(
            f'"""x."""\ndef main(arguments):\n    raise ModuleNotFoundError("no", name="{package}")\n'
        )
    monkeypatch.setattr(verbs, "FOLDER", tmp_path)
    monkeypatch.setattr(verbs, "__path__", [str(tmp_path)])
    with pytest.raises(UserError, match=r"segpress train needs the package torch, .*: pip install '\.\[train\]'"):
        verbs.run("train", [])
    with pytest.raises(UserError, match=r"segpress base needs the package cv2, .*; pip install opencv-python"):
        verbs.run("base", [])
    (tmp_path / "own.py").write_text('"""x."""\nimport pipeline.absent\n')
    with pytest.raises(ModuleNotFoundError, match="absent"):  # a bug of segpress keeps its traceback
        verbs.run("own", [])


@pytest.mark.parametrize(
    ("name", "arguments", "folder"),
    [("preset", [], "presets"), ("import", ["own.yaml", "--dataset", "data", "--out", "out"], "stages")],
)
def test_verbs_that_need_the_repository_refuse_to_run_without_it(
    name: str, arguments: list[str], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_repository, "ROOT", tmp_path)
    with pytest.raises(UserError, match=rf"{folder}: no such folder; this verb needs segpress's repository: clone it"):
        verbs.run(name, arguments)


def test_preset_lists_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verbs.run("preset", []) == 0
    listed = capsys.readouterr().out
    assert "cirkd_camvid" in listed and "streets" in listed
    file = tmp_path / "params.yaml"
    file.write_bytes((ROOT / "params.yaml").read_bytes())
    assert verbs.run("preset", ["cirkd_camvid", "--params", str(file)]) == 0
    assert "dataset: streets -> camvid" in capsys.readouterr().out and "dataset: camvid" in file.read_text()


def test_the_console_script_is_this_command() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'segpress = "pipeline.verbs.__main__:main"' in text
