"""stages/convert.py as it is run: it prints layers that TensorRT-RTX refuses in INT8, and INT8 that gains nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from ruamel.yaml import YAML

from pipeline import artifact

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> str:
    """Run a stage and return its output."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def spoil(int8: Path, target: Path) -> str:
    """Copy an INT8 artifact with one activation's scale of zero; returns the convolution that reads it alone."""
    model = onnx.load(int8 / "int8_tensorrt.onnx")
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for pair in (node for node in model.graph.node if node.op_type == "QuantizeLinear"):
        (dequantize,) = readers[pair.output[0]]
        read = readers[dequantize.output[0]]
        if len(read) == 1 and read[0].op_type == "Conv":
            break
    for tensor in model.graph.initializer:
        if tensor.name == pair.input[1]:
            tensor.CopyFrom(numpy_helper.from_array(np.array(0, np.float16), tensor.name))
    with artifact.create(target, kind="int8", meta=artifact.load(int8, kind="int8").facts) as folder:
        onnx.save(model, folder / "int8_tensorrt.onnx")
    return str(read[0].input[1]).removeprefix("network.net.").removesuffix(".weight_dq")


def test_a_layer_that_does_not_build_in_int8_is_released_and_printed(student: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install segpress[rtx]")
    raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    raw["convert"]["runtime"] = "tensorrt_rtx"
    raw["convert"]["tensorrt_rtx"]["compute_capabilities"] = ["SM86"]
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML().dump(raw, stream)
    layer = spoil(student.int8.path, tmp_path / "int8")
    given = ("--params", tmp_path / "params.yaml")
    run("stages/device.py", *given, "--out", tmp_path / "device.json")
    files = ("--device", tmp_path / "device.json", "--onnx", student.onnx.path, "--int8", tmp_path / "int8")
    printed = run("stages/convert.py", *given, *files, "--out", tmp_path / "engines")
    assert "engines/int8: tensorrt_rtx engine, " in printed
    assert "  built layers_released, because strongly_typed failed: tensorrt_rtx 1." in printed
    assert f"  in float: {layer}\n" in printed
    facts = {p: artifact.load(tmp_path / "engines" / p, kind="engine").meta["build"] for p in ("fp16", "int8")}
    assert facts["int8"]["released"] == [layer] and "rung" not in facts["fp16"]
    whole = onnx.load(student.int8.file("int8_tensorrt.onnx")).graph.node
    int8 = sum(node.op_type == "Conv" and node.input[1].endswith("_dq") for node in whole)
    assert facts["int8"]["precisions"]["convolution"]["int8"] == int8 - 1
