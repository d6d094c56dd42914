"""benchmarks/gpu.py on a machine without a GPU: a clear error, and its measurements of the CPU."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import artifact
from pipeline.frames import write_png
from pipeline.runtimes import _cuda

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu.py"

pytestmark = pytest.mark.skipif(
    _cuda.device() is not None, reason="this machine has a GPU; the test is about its absence"
)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
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


def test_what_is_there_is_measured_and_what_is_not_is_named(
    student: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_cuda, "device", lambda: {"gpu": "A Card", "compute_capability": "8.6"})
    meta = {**student.labels.to_meta(), "dataset": "noise", "splits": {"val": ["a", "b"]}}
    with artifact.create(tmp_path / "data", kind="dataset", meta=meta) as folder:
        for name, frame in zip("ab", student.frames, strict=False):
            write_png(folder / f"val/images/{name}.png", frame)
    out = tmp_path / "gpu.json"
    places = (student.onnx.path, student.int8.path, tmp_path / "data")
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
