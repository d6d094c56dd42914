"""benchmarks/gpu.py on a machine without a GPU: a clear error, and its measurements of the CPU."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import artifact
from pipeline.frames import write_png
from pipeline.runtimes import _cuda
from pipeline.runtimes.onnxruntime import OnnxRuntime

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu.py"

pytestmark = pytest.mark.skipif(
    _cuda.device() is not None, reason="this machine has a GPU; the test is about its absence"
)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return ended.value.code


def test_without_a_gpu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"
    assert run(monkeypatch, "onnx", "int8", "dataset", "--json", out) == 1
    assert "no GPU: this machine has no NVIDIA GPU with a driver; run this on one" in capsys.readouterr().err
    assert not out.exists()


@pytest.fixture
def places(student: Any, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Folders of the ONNX files, the INT8 files and a data set of two frames."""
    meta = {**student.labels.to_meta(), "dataset": "noise", "splits": {"val": ["a", "b"]}}
    with artifact.create(tmp_path / "data", kind="dataset", meta=meta) as folder:
        for name, frame in zip("ab", student.frames, strict=False):
            write_png(folder / f"val/images/{name}.png", frame)
    return student.onnx.path, student.int8.path, tmp_path / "data"


def test_what_is_there_is_measured_and_what_is_not_is_named(
    places: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_cuda, "device", lambda: {"gpu": "A Card", "compute_capability": "8.6"})
    out = tmp_path / "gpu.json"
    few = ("--warmup", 1, "--runs", 3, "--seconds", 0, "--runtimes", "onnxruntime", "tensorrt")
    assert not run(monkeypatch, *places, *few, "--json", out)
    results = json.loads(out.read_text())
    rows = {row["engine"]: row for row in results["rows"]}
    assert list(rows) == [f"onnxruntime cpu {precision}" for precision in ("fp32", "fp16", "int8")]
    assert rows["onnxruntime cpu fp32"]["same_labels"] == 1.0 > rows["onnxruntime cpu int8"]["same_labels"] > 0.9
    assert all(row["n"] == 3 and "device" not in row for row in rows.values())
    assert len(results["absent"]) == 12
    assert "CUDAExecutionProvider" in results["absent"]["onnxruntime cuda fp16"]
    assert "pip install tensorrt" in results["absent"]["tensorrt no graph int8"]
    shown = capsys.readouterr().out
    assert "A Card" in shown and "not measured: onnxruntime tensorrt int8: " in shown
    assert re.match(
        r"fastest: onnxruntime cpu \w+, p50 [\d.]+ ms; speed of fp16 / fp32: onnxruntime cpu [\d.]+$",
        shown.splitlines()[-1],
    )


def test_nodes_are_counted_by_provider_and_those_on_the_cpu_named(
    places: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a GPU, on the engines of the CPU, whose meta.json gets the nodes that an engine for CUDA would list."""
    nodes = {"CUDAExecutionProvider": ["Conv a", "Conv b"], "CPUExecutionProvider": ["Resize up"]}
    few = ("--device", "cpu", "--warmup", 0, "--runs", 2, "--seconds", 0)
    assert not run(monkeypatch, *places, *few)
    shown = capsys.readouterr().out
    assert shown.count("not listed") == 3 and "on the CPU" not in shown and "not measured" not in shown

    build = OnnxRuntime.build
    monkeypatch.setattr(OnnxRuntime, "build", lambda self, *files: {**build(self, *files), "nodes": nodes})
    out = tmp_path / "gpu.json"
    assert not run(monkeypatch, *places, *few, "--json", out)
    results = json.loads(out.read_text())
    assert [row["nodes"] for row in results["rows"]] == [nodes] * 3 and set(results["device"]) == {"cpu"}
    shown = capsys.readouterr().out
    assert shown.count("CUDA 2, CPU 1") == 3
    assert "onnxruntime cpu fp16: on the CPU: Resize up" in shown
