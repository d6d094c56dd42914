"""Engines of the shared student, a small deploy graph, a silent ONNX Runtime session, and imitations of TensorRT."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline import runtimes
from pipeline.quantization import graph as graphs
from pipeline.quantization import tensorrt
from pipeline.runtimes import CONFIDENCE, _cuda
from pipeline.runtimes._onnxruntime import cuda as cuda_options
from tests.runtimes import fake_onnxruntime, fake_tensorrt
from tests.runtimes.fake_cuda import HostCuda
from tests.runtimes.fake_onnxruntime import CudaSession
from tests.runtimes.fake_tensorrt_network import Play

META = ("classes", "palette", "ignore_index", "mean", "std", "input_size", "input", "output")


@pytest.fixture(scope="session")
def facts(student: Any) -> dict[str, Any]:
    """The facts that stages/convert.py passes to build_engine."""
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


@pytest.fixture(scope="session")
def small_deploy() -> Callable[..., onnx.ModelProto]:
    """``small_deploy(batch=1, height=16)`` is a deploy graph of three convolutions; a text as a size leaves it open."""

    def make(*, batch: int | str = 1, height: int | str = 16) -> onnx.ModelProto:
        rng = np.random.default_rng(0)
        weights = {"a": (16, 3, 3, 3), "b": (16, 16, 3, 3), "c": (16, 16, 3, 3)}
        constants = [
            numpy_helper.from_array(0.1 * rng.standard_normal(shape, np.float32), f"network.net.{name}.weight")
            for name, shape in weights.items()
        ]
        nodes = [
            helper.make_node("Cast", ["frames"], ["pixels"], name="cast", to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["pixels"], ["planes"], name="transpose", perm=[0, 3, 1, 2]),
        ]
        source = "planes"
        for name in weights:
            weight = f"network.net.{name}.weight"
            nodes.append(helper.make_node("Conv", [source, weight], [name], name=f"node_{name}", pads=[1] * 4))
            nodes.append(helper.make_node("Relu", [name], [source := f"{name}_relu"], name=f"relu_{name}"))
        nodes[-1] = helper.make_node("ArgMax", ["c"], ["ids"], name="argmax", axis=1, keepdims=0)
        nodes.append(helper.make_node("Cast", ["ids"], ["labels"], name="to_labels", to=TensorProto.UINT8))
        frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, [batch, height, 16, 3])
        labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, [batch, height, 16])
        graph = helper.make_graph(nodes, "deploy", [frames], [labels], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model

    return make


@pytest.fixture(scope="session")
def small_files(small_deploy: Callable[..., onnx.ModelProto], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with fp32.onnx (the small deploy graph), int8.onnx (all three convolutions) and no_int8.onnx."""
    folder = tmp_path_factory.mktemp("small")
    onnx.save(small_deploy(), folder / "fp32.onnx")
    graph = graphs.load(str(folder / "fp32.onnx"))
    ranges = {"planes": (0.0, 255.0), "a_relu": (0.0, 300.0), "b_relu": (0.0, 300.0)}
    onnx.save(tensorrt.place(graph, ranges), folder / "int8.onnx")
    onnx.save(tensorrt.place(graph, ranges, float_nodes=["node_a", "node_b", "node_c"]), folder / "no_int8.onnx")
    return folder


@pytest.fixture(scope="session")
def confident_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deploy graph with the second output: the id is that of the largest of three channels, its value the confidence.

    Frames are (1, 8, 16, 3).
    """
    nodes = [
        helper.make_node("Cast", ["frames"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["values"], ["ids"], axis=3, keepdims=0),
        helper.make_node("Cast", ["ids"], ["labels"], to=TensorProto.UINT8),
        helper.make_node("ReduceMax", ["values", "channels"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], [CONFIDENCE], to=TensorProto.UINT8),
    ]
    value = helper.make_tensor_value_info
    outputs = [value(name, TensorProto.UINT8, [1, 8, 16]) for name in ("labels", CONFIDENCE)]
    channels = [numpy_helper.from_array(np.array([3]), "channels")]
    graph = helper.make_graph(nodes, "deploy", [value("frames", TensorProto.UINT8, [1, 8, 16, 3])], outputs, channels)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    file = tmp_path_factory.mktemp("confident") / "fp32.onnx"
    onnx.save(model, file)
    return file


@pytest.fixture(params=["10.3.0.30", "11.4.0.106"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Play]:
    """(the module that ``import tensorrt`` returns, its play); this machine has no GPU."""
    trt, play = fake_tensorrt.make(request.param)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(_cuda, "device", lambda: None)
    return trt, play


@pytest.fixture
def play(library: tuple[Any, Play]) -> Play:
    return library[1]


@pytest.fixture
def trt(library: tuple[Any, Play]) -> Any:
    return library[0]


@pytest.fixture
def build(library: Any, small_files: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``build("fp32", **options)`` -> facts of the build; the plan is in tmp_path."""

    def run(name: str, **options: Any) -> dict[str, Any]:
        return runtimes.build("tensorrt", options).build(small_files / f"{name}.onnx", tmp_path / "engine.plan")

    return run


@pytest.fixture
def imitation(monkeypatch: pytest.MonkeyPatch) -> tuple[type[CudaSession], HostCuda]:
    """ONNX Runtime on CUDA: its sessions, and the library of CUDA."""
    monkeypatch.setattr(cuda_options, "WARM_UP", 1)
    monkeypatch.setattr(cuda_options, "RUNS", 3)
    return fake_onnxruntime.install(monkeypatch)


@pytest.fixture
def session(imitation: tuple[type[CudaSession], HostCuda]) -> type[CudaSession]:
    return imitation[0]


@pytest.fixture
def cuda(imitation: tuple[type[CudaSession], HostCuda]) -> HostCuda:
    return imitation[1]
