"""A new runtime is one file: in a copy of the project that has one more, it is chosen, built, checked and tested."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from ruamel.yaml import YAML

from pipeline import artifact, runtimes
from pipeline.frames import read_label_map, write_png

ROOT = Path(__file__).parents[2]
PLUGIN = '''
"""A runtime that nothing else in the project knows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from pipeline.errors import UserError
from pipeline.frames import Array
from pipeline.runtimes._base import CLOSED, CONFIDENCE, NO_CONFIDENCE, Engine, Fit, Runtime, check_frames


class Stranger(Runtime):
    """Args: threads: of one inference."""

    int8_variant = "int8_cpu"
    real_float16 = False
    engine_file = "engine.strange"
    version = "2026.3"

    def __init__(self, *, threads: int = 1) -> None:
        self.threads = threads

    @classmethod
    def fit(cls, machine: Any) -> Fit:
        return Fit(2, "it was made for strange processors", "pip install stranger")

    def fingerprint(self) -> dict[str, Any]:
        return {"stranger": self.version, "cpu": "Strange Processor"}

    def build(self, onnx_file: Path, engine_file: Path) -> dict[str, Any]:
        self._open(onnx_file)
        shutil.copyfile(onnx_file, engine_file)
        return {"strange": True}

    def load(self, engine_file: Path) -> Engine:
        return StrangeEngine(self._open(engine_file))

    def _open(self, file: Path) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 4
        try:
            return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UserError(f"{file}: {error}") from error


class StrangeEngine(Engine):
    def __init__(self, session: Any) -> None:
        self.session = session
        self.shape = tuple(session.get_inputs()[0].shape)
        self.input_size, self.output_size = self.shape[1:3], tuple(session.get_outputs()[0].shape[1:])
        self.gives_confidence = len(session.get_outputs()) == 2

    def another(self) -> Engine:
        return StrangeEngine(self.session)

    def run(self, frames: Array) -> Array:
        return self._run(frames)[0]

    def run_with_confidence(self, frames: Array) -> tuple[Array, Array]:
        if not self.gives_confidence:
            raise UserError(NO_CONFIDENCE)
        labels, confidence = self._run(frames)
        return labels, confidence

    def _run(self, frames: Array) -> list[Array]:
        if self.session is None:
            raise UserError(CLOSED)
        check_frames(frames, self.shape)
        return [np.asarray(output) for output in self.session.run(None, {"frames": frames})]

    def close(self) -> None:
        self.session = None
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with ``pipeline/runtimes/stranger.py``."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("pipeline", "stages", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "pipeline/runtimes/stranger.py").write_text(PLUGIN)
    raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    raw["convert"] = {"runtime": "stranger", "stranger": {"threads": 2}}
    raw["check"] |= {"warmup": 0, "runs": 10, "seconds": 0.0}
    with (folder / "params.yaml").open("w") as stream:
        YAML().dump(raw, stream)
    return folder


#: Run scripts one after another in one process, which imports the libraries once.
SCRIPTS = """
import json, runpy, sys
for sys.argv in json.loads(sys.argv[1]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


def run(project: Path, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_stages_take_it(project: Path, student: Any) -> None:
    names, rng = ["frame-0", "frame-1"], np.random.default_rng(0)
    facts = {"dataset": "noise", "splits": {"val": names}, **student.labels.to_meta()}
    with artifact.create(project / "dataset", kind="dataset", meta=facts) as folder:
        for name, frame in zip(names, student.frames, strict=False):
            write_png(folder / "val/images" / f"{name}.png", frame)
            write_png(folder / "val/labels" / f"{name}.png", rng.integers(0, 5, (128, 192), dtype=np.uint8))
    files = ("--onnx", student.onnx.path, "--int8", student.int8.path, "--out", "engines/it")
    given = ("--device", "device.json", "--dataset", "dataset", "--engines", "engines/it", "--int8", student.int8.path)
    commands = [
        ("stages/device.py", "--out", "device.json"),
        ("stages/convert.py", "--device", "device.json", *files),
        ("stages/check.py", *given, "--predictions", "predictions", "--out", "results/it.json"),
    ]
    said = run(project, "-c", SCRIPTS, json.dumps(commands, default=str))
    assert "engines/it/int8: stranger engine" in said
    results = json.loads((project / "results/it.json").read_text())
    assert (results["device"]["id"], results["device"]["kind"]) == ("strange-processor-stranger", "cpu")
    assert {variant["runtime"] for variant in results["variants"].values()} == {"stranger 2026.3"}
    assert results["runtime_options"] == {"threads": 2}
    expected = onnxruntime.InferenceSession(student.onnx.file("fp32.onnx"), providers=["CPUExecutionProvider"])
    (labels,) = expected.run(None, {"frames": student.frames[0][None]})
    predicted = read_label_map(project / "predictions/fp32/frame-0.png")
    assert predicted.shape == (128, 192) and (predicted == labels[0]).mean() > 0.99


def test_doctor_advises_it(project: Path) -> None:
    facts = json.loads(run(project, "-m", "pipeline.verbs", "doctor", "--json"))
    assert facts["runtimes"]["stranger"] == {"works": True, "version": "2026.3"}
    assert (facts["advice"]["runtime"], facts["advice"]["why"]) == ("stranger", "it was made for strange processors")


def asks_for_a_name(node: ast.AST) -> bool:
    """Whether a comparison has the name of a runtime on one side."""
    if not isinstance(node, ast.Compare | ast.MatchValue):
        return False
    constants = {str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant)}
    return not constants.isdisjoint(runtimes.available())


def test_nothing_else_asks_for_the_name_of_a_runtime() -> None:
    """Except for ``segpress doctor``, which also lists the providers of ONNX Runtime."""
    assert asks_for_a_name(ast.parse('meta["runtime"] == "onnxruntime"', mode="eval").body)
    files = [file for folder in ("pipeline", "stages") for file in (ROOT / folder).rglob("*.py")]
    asking = [
        f"{file.relative_to(ROOT)}:{node.lineno}"  # type: ignore[attr-defined]
        for file in files
        if "runtimes" not in file.relative_to(ROOT).parts and file.name != "machine.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if asks_for_a_name(node)
    ]
    assert not asking


@pytest.mark.slow
def test_the_contract_tests_it(project: Path) -> None:
    command = ("-m", "pytest", "tests/runtimes/test_contract.py", "-k", "stranger", "-p", "no:cacheprovider")
    output = run(project, *command)
    assert re.search(r"^1[0-9] passed, [0-9]+ deselected", output, re.MULTILINE), output
