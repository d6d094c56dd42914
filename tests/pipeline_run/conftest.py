"""The whole graph at a tiny size, in a repository of its own."""

from __future__ import annotations

import fcntl
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

ROOT = Path(__file__).parents[2]

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


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A project after `dvc repro`: the first process of pytest-xdist runs it, in the folder that all share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if hasattr(request.config, "workerinput") else own) / "graph"
    folder.mkdir(exist_ok=True)
    project, done = folder / "project", folder / "done"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            status, output, _ = dvc(clone(project, tiny), "repro")
            assert status == 0, output
            done.touch()
    return project


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project for the tests of a file."""
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("project") / "project", symlinks=True))
