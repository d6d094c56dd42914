"""Engines of the shared student, and a silent ONNX Runtime session to compare with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from pipeline import runtimes

META = ("classes", "palette", "ignore_index", "mean", "std", "input_size", "input", "output")


@pytest.fixture(scope="session")
def facts(student: Any) -> dict[str, Any]:
    """What stages/convert.py hands to build_engine."""
    return {**{key: student.onnx.meta[key] for key in META}, "parents": {"onnx": student.onnx.hash}}


@pytest.fixture(scope="session")
def engine_folder(student: Any, facts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine artifact of ONNX Runtime. Copy it before you change it."""
    options = {"threads": 1}
    out = tmp_path_factory.mktemp("engine") / "fp32"
    runtime = runtimes.build("onnxruntime", options)
    meta = {**facts, "precision": "fp32"}
    runtimes.build_engine(runtime, student.onnx.file("fp32.onnx"), out, name="onnxruntime", options=options, meta=meta)
    return out


@pytest.fixture(scope="session")
def plain_run() -> Callable[..., Any]:
    """Label maps of an ONNX file with every optimisation of ONNX Runtime off."""

    def run(file: Path, frames: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return session.run(None, {"frames": frames})[0]

    return run
