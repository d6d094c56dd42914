"""Steps: skipped if unchanged, run again if an input changed, and never in a folder of another network."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.verbs import _steps
from pipeline.verbs._steps import RECORD, TIME_OVER, Step, digest, perform, run_stage

ROOT = Path(__file__).parents[2]


def steps(folder: Path, source: Path, *, factor: int = 2, ran: list[str], fails: str = "") -> list[Step]:
    """Two steps: double the number in a file, then add one."""
    first, second = folder / "first.json", folder / "second.json"

    def run(name: str, read: Path, write: Path) -> int:
        ran.append(name)
        if name == fails:
            return 7
        value = int(read.read_text())
        folder.mkdir(exist_ok=True)
        write.write_text(str(value * factor if name == "double" else value + 1))
        return 0

    return [
        Step("double", [first], {"source": source, "factor": factor}, partial(run, "double", source, first)),
        Step("add", [second], {"first": first}, partial(run, "add", first, second)),
    ]


def test_only_what_changed_runs_again(tmp_path: Path) -> None:
    source, folder, ran = tmp_path / "source", tmp_path / "out", list[str]()
    source.write_text("3")
    lines: list[str] = []

    def go(factor: int = 2) -> list[str]:
        ran.clear()
        lines.clear()
        assert perform(steps(folder, source, factor=factor, ran=ran), folder, of="x", say=lines.append) == 0
        return ran

    assert go() == ["double", "add"] and (folder / "second.json").read_text() == "7"
    assert go() == [] and all("unchanged" in line for line in lines)
    assert go(factor=4) == ["double", "add"] and lines[0].endswith("(changed: factor)")
    assert (folder / "second.json").read_text() == "13"
    (folder / "second.json").unlink()
    assert go(factor=4) == ["add"]
    (folder / "first.json").write_text("5")  # changed by hand: written again; the second input is then as before
    assert go(factor=4) == ["double"]
    source.write_text("1")
    assert go(factor=4) == ["double", "add"] and lines[0].endswith("(changed: source)")


def test_a_failed_step_stops_and_the_next_run_starts_there(tmp_path: Path) -> None:
    source, folder, ran = tmp_path / "source", tmp_path / "out", list[str]()
    source.write_text("3")
    assert perform(steps(folder, source, ran=ran, fails="add"), folder, of="x", say=print) == 7
    assert ran == ["double", "add"]
    ran.clear()
    assert perform(steps(folder, source, ran=ran), folder, of="x", say=print) == 0 and ran == ["add"]


def test_a_folder_of_another_network_is_refused(tmp_path: Path) -> None:
    source, folder, ran = tmp_path / "source", tmp_path / "out", list[str]()
    source.write_text("3")
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=rf"holds no {RECORD}, so this command did not write it; name another folder"):
        perform(steps(folder, source, ran=ran), folder, of="x", say=print)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"] and ran == []
    (folder / RECORD).write_text(json.dumps({"of": "y", "steps": {}}))
    with pytest.raises(UserError, match="belongs to y, not to x"):
        perform(steps(folder, source, ran=ran), folder, of="x", say=print)
    (folder / RECORD).write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        perform(steps(folder, source, ran=ran), folder, of="x", say=print)
    assert ran == []


def test_a_digest_sees_json_files_and_missing_or_cut_payload(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("{}")
    (tmp_path / "payload").write_text("abc")
    seen = {digest(tmp_path)}
    for name, text in (("meta.json", "[]"), ("payload", "ab")):
        (tmp_path / name).write_text(text)
        seen.add(digest(tmp_path))
    (tmp_path / "payload").unlink()
    seen.add(digest(tmp_path))
    assert len(seen) == 4 and digest({"a": 1}) == digest({"a": 1}) != digest({"a": 2})


def test_an_interruption_reaches_the_stage(tmp_path: Path) -> None:
    """`kill` interrupts the command alone; Ctrl-C in a terminal would reach the stage too."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/slow.py").write_text(
        "import pathlib, signal, sys, time\n"
        "def end(*_): pathlib.Path(sys.argv[1] + '/clean').touch(); sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, end)\npathlib.Path(sys.argv[1] + '/up').touch()\ntime.sleep(60)\n"
    )
    program = (
        "import pathlib, sys\nfrom pipeline.errors import command\nfrom pipeline.verbs import _repository, _steps\n"
        "_repository.ROOT = pathlib.Path(sys.argv[1])\n"
        "sys.exit(command(lambda: _steps.run_stage('slow', sys.argv[1]))())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 30
            while not (tmp_path / "up").exists():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130 and (tmp_path / "clean").exists() and "Traceback" not in errors


def test_the_status_of_a_stage_is_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ends.py").write_text("import sys, pipeline; sys.exit(int(sys.argv[1]))")
    monkeypatch.setattr(_steps, "folder_of", lambda name: tmp_path)
    assert [_steps.run_stage("ends", text) for text in ("0", "5")] == [0, 5]


def test_a_stage_is_stopped_at_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/slow.py").write_text("import time, pathlib\npathlib.Path('here').touch()\ntime.sleep(60)\n")
    monkeypatch.setattr("pipeline.verbs._steps.folder_of", lambda name: tmp_path / name)
    started = time.monotonic()
    assert run_stage("slow", folder=tmp_path, until=started + 2) == TIME_OVER
    assert 1.5 < time.monotonic() - started < 30
    assert (tmp_path / "here").exists()
