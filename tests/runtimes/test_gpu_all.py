"""benchmarks/gpu_all.sh: the results that remain if a part is cut off or the script is ended; the kit; a dry run.

Except in the dry run, ``python`` is an imitation: it writes the files that the programs would write.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/gpu_all.sh"
PARTS = ["setup", "gpu_tests", "training_speed", "losses", "gpu", "training"]
#: Prints its arguments; writes what follows --json, --costs, --out and --target; training_speed takes a minute.
PYTHON = """#!/bin/bash
echo "python $*"
case "$*" in
  "-c import"*) exit 1 ;;
  *gpu_params.py*) touch "$2/training.yaml" "$2/runtimes.yaml" ;;
esac
given=("$@")
for at in "${!given[@]}"; do
  value=${given[$((at + 1))]}
  case ${given[$at]} in
    --json | --costs) mkdir -p "$(dirname "$value")"; echo '{"rows": []}' >"$value" ;;
    --out | --target) mkdir -p "$value"; echo '{}' >"$value/meta.json" ;;
  esac
done
case "$*" in
  *training_speed.py*)
    echo "none: real / bare: none 0.93"
    echo $$ >"$PLACE/pid"
    exec sleep 60
    ;;
esac
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``start(arguments)`` starts the script with the imitation of Python; its results are in ``tmp_path / "out"``."""
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(PYTHON)
    python.chmod(0o755)
    path = f"{python.parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OUT": str(tmp_path / "out"), "PLACE": str(tmp_path)}
    started: list[subprocess.Popen[str]] = []

    def call(*arguments: object) -> subprocess.Popen[str]:
        command = ["bash", str(SCRIPT), "--device", "cpu", "--tiny", "--work", tmp_path / "work", *arguments]
        process = subprocess.Popen(
            list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield call
    for process in started:
        with process:  # waits for it
            process.terminate()


def outcomes(folder: Path) -> dict[str, str]:
    rows = csv.reader(io.StringIO((folder / "parts.tsv").read_text()), delimiter="\t", quoting=csv.QUOTE_NONE)
    return {row[0]: row[2] for row in rows}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_part_that_is_cut_off_leaves_the_results_of_the_others(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    earlier = [out / "gpu_tensorrt.json", out / "training_cirkd.json"]
    for file in earlier:
        file.write_text("{}")
    process = start("--limit", "training_speed=1")
    printed, _ = process.communicate()
    assert not any(file.exists() for file in earlier), "of an earlier run"
    assert process.returncode == 1
    assert outcomes(out) == {name: "cut off" if name == "training_speed" else "ok" for name in PARTS}
    for name in ("training_speed", "losses", "gpu", "training_kd", "training_kd.costs"):
        json.loads((out / f"{name}.json").read_text())
    assert not alive(int((tmp_path / "pid").read_text()))
    table = printed[printed.index("part ") :]
    assert table == (out / "table.txt").read_text()
    assert [line.split()[0] for line in table.splitlines()] == ["part", *PARTS]
    (row,) = (line for line in table.splitlines() if line.startswith("training_speed"))
    assert "cut off" in row and row.endswith("none: real / bare: none 0.93")


def test_a_script_that_is_ended_leaves_a_table_of_what_was_done(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start()
    pid = tmp_path / "pid"
    while not (pid.exists() and pid.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    printed, _ = process.communicate()
    assert process.returncode == 1 and not alive(int(pid.read_text()))
    assert outcomes(tmp_path / "out") == {"setup": "ok", "gpu_tests": "ok", "training_speed": "cut off"}
    assert printed.endswith((tmp_path / "out/table.txt").read_text())


def test_the_kit_gives_what_the_machine_lacks(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """Wheels, encoders, CamVid, the place of dvclive; and ONNX Runtime, whose parts come one by one."""
    work, archive = tmp_path / "work", tmp_path / "ort.tar.xz"
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime/__init__.py").write_bytes(os.urandom(3000))
    with tarfile.open(archive, "w:xz") as packed:
        packed.add(tmp_path / "onnxruntime", "onnxruntime")
    halves = archive.read_bytes()[:1500], archive.read_bytes()[1500:]
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first / "whl", first / "lab", first / "weights", second):
        folder.mkdir(parents=True)
    (first / "whl/a.whl").touch()
    (first / "lab/dvclive.py").write_text("class Live: ...\n")
    with tarfile.open(first / "camvid.tar", "w") as packed:
        packed.add(first / "lab/dvclive.py", "camvid/train.txt")
    for kit, half, suffix in ((first, halves[0], "aa"), (second, halves[1], "ab")):
        (kit / f"ort.{suffix}").write_bytes(half)

    assert start("--parts", "setup", "--kit", first).wait() == 0
    log = (tmp_path / "out/setup.log").read_text()
    assert f"--target {work}/site.new {first}/whl/a.whl" in log and (work / "site/meta.json").exists()
    assert (work / "stand_in/dvclive.py").exists() and (work / "camvid/train.txt").exists()
    assert f"gpu_params.py {work} --weights {first}/weights --device cpu --tiny" in log
    assert "ONNX Runtime: parts are missing; present: ort.aa" in log and not (work / "ort").exists()

    assert start("--parts", "setup", "--kit", second).wait() == 0
    unpacked = work / "ort/onnxruntime/__init__.py"
    assert unpacked.read_bytes() == (tmp_path / "onnxruntime/__init__.py").read_bytes()


def test_camvid_that_is_not_complete_is_not_used(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    kit, image = tmp_path / "kit", tmp_path / "image"
    kit.mkdir()
    image.write_bytes(os.urandom(100_000))
    whole = tmp_path / "whole.tar"
    with tarfile.open(whole, "w") as packed:
        for name in ("camvid/images/a.jpg", "camvid/images/b.jpg"):
            packed.add(image, name)
    for size, status in ((150_000, 1), (None, 0)):
        (kit / "camvid.tar").write_bytes(whole.read_bytes()[:size])
        assert start("--parts", "setup", "--kit", kit).wait() == status
        assert (tmp_path / "work/camvid").exists() == (status == 0)
    assert len(list((tmp_path / "work/camvid/images").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--parts", "gpu nothing"), "--parts: no part nothing; allowed: setup gpu_tests"),
        (("--limit", "gpu=soon"), "--limit: got gpu=soon; needed: seconds, 1 or more"),
        (("--limit", "gpu=0"), "--limit: got gpu=0; needed: seconds, 1 or more"),
        (("--work", "/dev/null/work"), "/dev/null/work: cannot be written; set OUT or --work to another folder"),
        (("--limit", "all=3"), "--limit: got all=3; needed: PART=SECONDS"),
        (("--device", "tpu"), "--device: got tpu; allowed: cuda, cpu"),
        (("--device", "cuda"), "--device: got cuda, but this machine has no NVIDIA GPU with a driver; a dry run:"),
        (("--fast", "yes"), "--fast: no such option"),
        (("--kit",), "--kit: no value"),
    ],
)
def test_wrong_options_are_refused(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    process = start(*arguments)
    printed, _ = process.communicate()
    assert process.returncode == 2 and message in printed and not list((tmp_path / "out").glob("*"))


@pytest.mark.slow
def test_a_dry_run_has_every_part(tmp_path: Path) -> None:
    environment: dict[str, Any] = {**os.environ, "OUT": str(tmp_path / "out")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = ["bash", SCRIPT, "--device", "cpu", "--tiny", "--work", tmp_path / "work"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    logs = {file.name: file.read_text()[-2000:] for file in (tmp_path / "out").glob("*.log")}
    assert done.returncode == 0, (done.stdout, done.stderr, logs)
    assert outcomes(tmp_path / "out") == dict.fromkeys(PARTS, "ok")
    (speed,) = json.loads((tmp_path / "out/training_speed.json").read_text()).values()
    assert [row["loss"] for row in speed["rows"]] == ["teacher", "none", "kd", "kd+cirkd"]
    losses = json.loads((tmp_path / "out/losses.json").read_text())
    assert list(losses) == [*(f"losses 2x128x192, stride {stride}" for stride in (4, 8)), "step 2x128x192"]
    engines = json.loads((tmp_path / "out/gpu.json").read_text())["rows"]
    assert [row["engine"] for row in engines] == [f"onnxruntime cpu {name}" for name in ("fp32", "fp16", "int8")]
    assert json.loads((tmp_path / "out/training_kd.json").read_text())["metrics"]["val"]["miou"] >= 0
