"""INT8 labels compared with exact arithmetic, and the warnings that name saturation or rounding as the cause."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from pipeline import runtimes
from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.evaluation import device, exactness
from pipeline.frames import Array
from pipeline.runtimes import Engine

MARKED = {"source": "int8_cpu.onnx", "saturation_free": True}
UNMARKED = {"source": "int8_cpu.onnx"}


@pytest.mark.parametrize(
    ("machine", "instructions", "kernels"),
    [
        ("x86_64", "avx avx2 avx512f avx512_vnni", "vnni"),
        ("AMD64", "avx avx2 avx_vnni", "vnni"),
        ("x86_64", "avx avx2 avx512f", "avx512"),
        ("x86_64", "avx avx2", "avx2"),
        ("x86_64", "avx", "sse"),
        ("x86_64", "", "unknown"),
        ("aarch64", "asimd asimddp i8mm", "i8mm"),
        ("arm64", "asimd asimddp", "dotprod"),
        ("aarch64", "asimd", "neon"),
        ("riscv64", "", "unknown"),
    ],
)
def test_kernels_of_a_cpu(machine: str, instructions: str, kernels: str) -> None:
    assert exactness.int8_kernels(machine, instructions) == kernels


def test_a_device_says_which_kernels_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint of engines does not contain the kernels; a GPU has none."""
    facts = {"machine": "x86_64", "cpu": "a CPU", "instructions": "avx2"}
    runtime: Any = SimpleNamespace(fingerprint=lambda: dict(facts))
    assert device.describe(runtime, name="onnxruntime")["int8_kernels"] == "avx2"
    facts["gpu"] = "a GPU"
    assert "int8_kernels" not in device.describe(runtime, name="onnxruntime")
    plugin = runtimes.build("onnxruntime", {"threads": 1})
    assert "int8_kernels" not in plugin.fingerprint()
    monkeypatch.setattr("pipeline.runtimes.onnxruntime._cpuinfo", lambda *keys: "")  # no /proc/cpuinfo
    assert device.describe(plugin, name="onnxruntime")["int8_kernels"] == "unknown"


class Answering(Engine):
    """Returns the same label map for every frame."""

    def __init__(self, label_map: Array) -> None:
        self.label_map = label_map

    def run(self, frames: Array) -> Array:
        return self.label_map[None]


def test_agreement_is_the_share_of_equal_labels() -> None:
    ones, half = np.ones((4, 4), np.uint8), np.eye(4, dtype=np.uint8)
    frames = [np.zeros((4, 4, 3), np.uint8)] * 3
    assert exactness.agreement(Answering(ones), Answering(ones), frames) == 100.0
    assert exactness.agreement(Answering(ones), Answering(half), frames) == 25.0


def texts(agrees: float | None, engine: dict[str, Any], kernels: str) -> str:
    entries = exactness.warnings(agrees, engine=engine, device={"int8_kernels": kernels})
    return " ".join(warning["what"] for warning in entries)


@pytest.mark.parametrize("kernels", ["avx2", "avx512"])
def test_saturation_is_named_where_it_is_possible(kernels: str) -> None:
    """A file without the mark on a CPU without VNNI, for any agreement, also an unmeasured one."""
    what = texts(97.9, UNMARKED, kernels)
    assert "agree with exact arithmetic on 97.90 % because of saturation" in what and kernels in what
    assert "dvc repro quantize convert check" in what
    assert "labels may be wrong" in texts(99.9, UNMARKED, kernels)
    assert "labels may be wrong" in texts(None, UNMARKED, kernels)


def test_other_causes_are_named() -> None:
    for engine, kernels in ((MARKED, "avx2"), (UNMARKED, "vnni"), ({"source": "int8_arm.onnx"}, "neon")):
        assert "rounding between layers, not saturation; " in texts(98.0, engine, kernels)
    assert "or of saturation: the CPU's kernels are unknown" in texts(98.0, UNMARKED, "unknown")


def test_exact_labels_give_no_warning() -> None:
    for kernels in ("avx2", "vnni", "unknown", "dotprod"):
        assert not texts(99.9, MARKED, kernels) and not texts(None, MARKED, kernels)
    assert not texts(None, UNMARKED, "vnni") and not texts(99.6, UNMARKED, "unknown")
    assert not exactness.warnings(None, engine={"source": "int8_tensorrt.onnx"}, device={})


def built(student: Any, folder: Path) -> tuple[Engine, Artifact]:
    plugin = runtimes.build("onnxruntime", {"threads": 1})
    places = runtimes.build_engines(
        plugin, student.onnx, student.int8, folder, name="onnxruntime", options={"threads": 1}
    )
    return runtimes.open_engine(places["int8"])


def test_an_engine_is_compared_with_the_file_that_it_was_built_from(student: Any, tmp_path: Path) -> None:
    plugin = runtimes.build("onnxruntime", {"threads": 1})
    engine, stored = built(student, tmp_path)
    assert stored.meta["saturation_free"] is True
    results: dict[str, Any] = {"device": {"int8_kernels": "avx2"}, "warnings": [{"what": "an earlier one"}]}
    exactness.compare(results, plugin, student.int8, engine=stored, opened=engine, frames=student.frames)
    assert 98 < results["int8_exact_agreement"] < 100
    assert results["warnings"][0]["what"] == "an earlier one"
    del stored.meta["saturation_free"]
    exactness.compare(results, plugin, None, engine=stored, opened=engine, frames=student.frames)
    assert results["int8_exact_agreement"] is None
    assert "not marked as saturation_free" in results["warnings"][-1]["what"]
    other: Any = SimpleNamespace(hash="0" * 64, path=Path("other"), file=student.int8.file)
    with pytest.raises(UserError, match="built from other INT8 files than other; run dvc repro convert"):
        exactness.compare(results, plugin, other, engine=stored, opened=engine, frames=student.frames)


def test_exact_arithmetic_is_that_of_the_unchanged_file(student: Any) -> None:
    """ONNX Runtime must not replace Q/DQ pairs with INT8 kernels."""
    file = student.int8.file("int8_cpu.onnx")
    exact = runtimes.build("onnxruntime", {"threads": 1}).exact(file)
    assert exact is not None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    same = [(exact.run(f[None]) == plain.run(None, {"frames": f[None]})[0]).mean() for f in student.frames]
    assert np.mean(same) > 0.995
