"""On a machine with a GPU: engines there agree with ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import runtimes
from pipeline.errors import UserError
from pipeline.runtimes import _cuda

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(_cuda.device() is None, reason="needs an NVIDIA GPU and its driver; this machine has none"),
]
CHOICES = [
    ("tensorrt", {}, "onnx", "fp32.onnx", 0.99),
    ("tensorrt", {}, "onnx", "fp16.onnx", 0.97),
    ("tensorrt", {}, "int8", "int8_tensorrt.onnx", 0.9),
    ("tensorrt_rtx", {}, "onnx", "fp32.onnx", 0.99),
    ("tensorrt_rtx", {}, "onnx", "fp16.onnx", 0.97),
    ("tensorrt_rtx", {}, "int8", "int8_tensorrt.onnx", 0.9),
    ("onnxruntime", {"provider": "cuda"}, "onnx", "fp32.onnx", 0.99),
    ("onnxruntime", {"provider": "cuda"}, "onnx", "fp16.onnx", 0.97),
]


@pytest.mark.parametrize(("name", "options", "kind", "file", "agreement"), CHOICES)
def test_gpu_engine_agrees_with_the_cpu(
    student: Any,
    facts: Any,
    plain_run: Callable[..., Any],
    tmp_path: Path,
    name: str,
    options: dict[str, Any],
    kind: str,
    file: str,
    agreement: float,
) -> None:
    if name != "onnxruntime":
        pytest.importorskip(name, reason=f"{name} is not installed")
    source = getattr(student, kind).file(file)
    try:
        runtime = runtimes.build(name, options)
        runtimes.build_engine(runtime, source, tmp_path / "engine", name=name, options=options, meta=facts)
    except UserError as error:
        if name == "onnxruntime" and "install the libraries" in str(error):
            pytest.skip(f"the CUDA libraries of ONNX Runtime are missing: {error}")
        raise
    engine, found = runtimes.open_engine(tmp_path / "engine")
    assert found.meta["fingerprint"]["gpu"] != "none"
    same = [engine.run(frame[None]) == plain_run(source, frame[None]) for frame in student.frames]
    engine.close()
    assert np.mean(same) >= agreement
