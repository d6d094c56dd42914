"""The stage: the real script, with the fake engine in the place of the loaded one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.labels import LabelSpec

SCRIPT = Path(__file__).parents[2] / "stages/infer.py"


@pytest.fixture
def infer(engine: Any, labels: LabelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Calls main() with arguments, from another working directory."""
    pytest.importorskip("av", reason="the default output is H.264")
    spec = importlib.util.spec_from_file_location("infer_stage", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(module, "open_engine", lambda path, options: (engine, SimpleNamespace(labels=labels, hash="e")))

    def call(*args: object) -> int:
        monkeypatch.setattr(sys, "argv", ["infer.py", "engine", *map(str, args)])
        return int(module.main())

    return call


def test_video(infer: Any, engine: Any, make_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert infer(make_video(), "--limit", 5, "--masks", "m", "--out", "o.mp4", "--json", "s/summary.json") == 0
    assert engine.closed
    assert sorted(p.name for p in Path().iterdir()) == ["m", "o.mp4", "s"]
    meta = json.loads(Path("s/summary.json").read_text())
    assert (meta["frames"], meta["engine"], meta["source"]) == (5, "e", "drive.mp4")
    text = capsys.readouterr().out
    assert "5 frames in " in text
    for path in ("o.mp4", "m", "s/summary.json"):
        assert f"written: {path}\n" in text


def test_defaults(infer: Any, folder: Path) -> None:
    assert infer(folder / "a.png") == 0
    assert infer(folder, "--no-legend") == 0
    assert sorted(p.name for p in Path().iterdir()) == ["a-overlay.png", "overlay.mp4"]


def test_without_av(
    infer: Any, make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    video = make_video()
    monkeypatch.setitem(sys.modules, "av", None)
    assert infer(video) == 1
    assert "error: overlay.mp4: H.264 needs PyAV: pip install av; or write masks" in capsys.readouterr().err
    assert infer(video, "--masks", "m") == 0
    assert infer(video, "--out", "pictures") == 0
    assert len(list(Path("m").glob("*.png"))) == len(list(Path("pictures").glob("*.png"))) == 8


def test_interruption(
    infer: Any, engine: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(frames: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "run", interrupt)
    assert infer(folder, "--masks", "m", "--out", "o.mp4", "--json", "s.json") == 130
    assert not list(Path().iterdir())
    assert engine.closed
    assert capsys.readouterr().err.startswith("interrupted: ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--alpha", "2"], "error: alpha is 2.0; allowed: 0"),
        (["--json", "/dev/null/s.json"], "error: /dev/null/s.json: cannot be written"),
        (["--out", "/dev/null/o.mp4"], "error: /dev/null/o.mp4: cannot be written"),
    ],
)
def test_user_errors(
    infer: Any, engine: Any, folder: Path, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer(folder, *args) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert engine.calls == 0


@pytest.mark.parametrize("args", [["--limit", "0"], ["--limit", "x"], ["--threads", "-1"]])
def test_bad_option_values(infer: Any, folder: Path, args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        infer(folder, *args)
    assert raised.value.code == 2
    assert f"argument {args[0]}: got '{args[1]}'; allowed: a whole number from 1" in capsys.readouterr().err


def test_runs_from_any_folder_without_installation(tmp_path: Path) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        # -P would hide stages/, -E keeps a PYTHONPATH of the test run out
        command = [sys.executable, "-E", str(SCRIPT), *args]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    helped = run("--help")
    assert helped.returncode == 0, helped.stderr
    assert "example: python stages/infer.py" in helped.stdout
    missing = run("engine", "gone.mp4")
    assert missing.returncode == 1
    assert missing.stderr == "error: gone.mp4: no such file or folder; give a video, an image or a folder of images\n"
