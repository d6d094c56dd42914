"""The launch lines of docs/scaling.md as they stand there, and a stage that is killed and started again."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from tests.pipeline_run.conftest import TINY_MODEL

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

LINES = re.findall(r"^(?:torchrun|accelerate launch) .*$", (ROOT / "docs/scaling.md").read_text(), flags=re.MULTILINE)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def start(folder: Path, command: list[str], **environment: str) -> subprocess.Popen[str]:
    """A command as a user with the active environment gives it, one thread a process."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, command: list[str], **environment: str) -> str:
    started = start(folder, command, **environment)
    try:
        said, _ = started.communicate(timeout=300)
    finally:
        started.kill()
    assert started.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny params.yaml, a prepared data set and the stages."""
    folder = tmp_path_factory.mktemp("launch")
    yaml = YAML()
    params: dict[str, Any] = yaml.load(ROOT / "params.yaml")
    params["input_size"] = [64, 96]
    params["checkpoint_seconds"] = 0
    params["datasets"]["streets"].update(train=24, val=8, sequence=0, size=[64, 96])
    params["teacher"]["model"] = TINY_MODEL
    params["teacher"]["train"].update(steps=12, warmup=1, validate_every=6, batch_size=4, store="none")
    yaml.dump(params, folder / "params.yaml")
    (folder / "stages").symlink_to(ROOT / "stages")
    run(folder, [sys.executable, "stages/prepare.py", "--out", "artifacts/dataset"])
    return folder


def teacher(project: Path, name: str) -> list[str]:
    return [
        "stages/train_teacher.py", "--dataset", "artifacts/dataset", "--curves", f"artifacts/curves/{name}",
        "--checkpoints", f".checkpoints/{name}", "--out", f"artifacts/{name}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def in_two(project: Path) -> Path:
    """The teacher that two processes train, by the environment variable."""
    said = run(project, [sys.executable, *teacher(project, "two")], SEGPRESS_PROCESSES="2")
    assert said.count("artifacts/two: val mIoU") == 1, "only the first process speaks"
    return project / "artifacts/two/weights.safetensors"


@pytest.mark.parametrize("line", [line for line in LINES if "--nnodes" not in line])
def test_launch_lines_run_as_written(project: Path, in_two: Path, line: str) -> None:
    """With 2 processes in the place of 8."""
    command = [{"8": "2"}.get(word, word) for word in shlex.split(line)]
    run(project, command)
    assert (project / "artifacts/teacher/weights.safetensors").read_bytes() == in_two.read_bytes()
    assert not list((project / ".checkpoints").glob("teacher/*")), "a finished run leaves no checkpoints"


def test_two_nodes_on_one_machine(project: Path, in_two: Path) -> None:
    line = next(line for line in LINES if "--nnodes" in line)
    place = {"node0": "127.0.0.1", "29500": str(free_port()), "8": "1"}
    first = [place.get(word, word) for word in shlex.split(line)]
    second = list(first)
    second[second.index("--node-rank") + 1] = "1"
    nodes = [start(project, command) for command in (first, second)]
    try:
        said = [node.communicate(timeout=300)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], said
    assert (project / "artifacts/teacher/weights.safetensors").read_bytes() == in_two.read_bytes()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_stage_that_is_killed_goes_on(project: Path, in_two: Path, processes: str) -> None:
    """Killed with everything that it started, three times; then its artifact has the same bytes."""
    name = f"killed-{processes}"
    command = [sys.executable, *teacher(project, name)]
    if processes == "1":
        run(project, [sys.executable, *teacher(project, "one")])
    expected = project / "artifacts/one" if processes == "1" else in_two.parent
    for kill in range(3):
        started = start(project, command, SEGPRESS_PROCESSES=processes)
        wanted = 3 * (kill + 1)
        until = time.monotonic() + 300
        while (
            started.poll() is None
            and time.monotonic() < until
            and not list(project.glob(f".checkpoints/{name}/*/step-{wanted:08d}"))
        ):
            time.sleep(0.01)
        for process in [*psutil.Process(started.pid).children(recursive=True), started]:
            process.kill()
        started.communicate(timeout=60)
    said = run(project, command, SEGPRESS_PROCESSES=processes)
    assert "resuming after step" in said
    for file in ("weights.safetensors", "meta.json"):
        assert (project / f"artifacts/{name}" / file).read_bytes() == (expected / file).read_bytes()
    tables = [
        {file.name: file.read_bytes() for file in (project / f"artifacts/curves/{which}").rglob("*.*")}
        for which in (name, expected.name)
    ]
    assert tables[0] and tables[0] == tables[1]
