"""ONNX Runtime: engines compute as their file says, are reproducible, and refuse invalid frames and files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from pipeline import runtimes
from pipeline.errors import UserError
from pipeline.runtimes import _cuda
from pipeline.runtimes import onnxruntime as plugin

SOURCES = [("onnx", "fp32.onnx"), ("onnx", "fp16.onnx"), ("int8", "int8_cpu.onnx"), ("int8", "int8_tensorrt.onnx")]


@pytest.mark.parametrize(("kind", "name"), SOURCES[:3])  # the last one is for TensorRT
def test_an_engine_runs_as_its_unoptimised_file(
    student: Any, plain_run: Callable[..., Any], tmp_path: Path, kind: str, name: str
) -> None:
    source = getattr(student, kind).file(name)
    runtime = runtimes.build("onnxruntime", {"threads": 1})
    assert runtime.build(source, tmp_path / "engine.onnx")["provider"] == "CPUExecutionProvider"
    engine = runtime.load(tmp_path / "engine.onnx")
    assert (engine.input_size, engine.output_size) == ((128, 192), (128, 192))
    same = []
    for frame in student.frames:
        labels = engine.run(frame[None])
        assert (labels.dtype, labels.shape) == (np.uint8, (1, 128, 192))
        same.append(labels == plain_run(source, frame[None]))
    assert np.mean(same) > (0.999 if name == "fp32.onnx" else 0.97)
    engine.close()


@pytest.mark.parametrize(("kind", "name"), SOURCES)
def test_builds_have_the_same_bytes(student: Any, tmp_path: Path, kind: str, name: str) -> None:
    runtime = runtimes.build("onnxruntime", {"threads": 1})
    built = set()
    for run in range(5):
        runtime.build(getattr(student, kind).file(name), tmp_path / f"{run}.onnx")
        built.add((tmp_path / f"{run}.onnx").read_bytes())
    assert len(built) == 1
    assert str(tmp_path).encode() not in built.pop()


def test_engines_are_optimised(student: Any, tmp_path: Path) -> None:
    runtimes.build("onnxruntime", {}).build(student.onnx.file("fp32.onnx"), tmp_path / "engine.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "engine.onnx").graph.node]
    assert "FusedConv" in kinds
    assert len(kinds) < 0.8 * len(onnx.load(student.onnx.file("fp32.onnx")).graph.node)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 64, 192, 3), np.uint8),
        np.zeros((1, 192, 128, 3), np.uint8),
        np.zeros((2, 128, 192, 3), np.uint8),
        np.zeros((128, 192, 3), np.uint8),
        np.zeros((1, 3, 128, 192), np.uint8),
        np.zeros((1, 128, 192, 3), np.float32),
    ],
    ids=["height", "swapped", "batch", "no batch", "channels first", "float"],
)
def test_frames_that_do_not_fit_are_refused(engine_folder: Path, frames: Any) -> None:
    engine, _ = runtimes.open_engine(engine_folder)
    with pytest.raises(UserError, match=r"this engine takes \(1, 128, 192, 3\) uint8; resize them"):
        engine.run(frames)


def graph_file(file: Path, input_type: int, input_shape: list[Any], output_type: int, output_shape: list[Any]) -> Path:
    """A Cast and a Reshape between the given tensors."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [-1])
    nodes = [helper.make_node("Reshape", ["frames", "shape"], ["flat"])]
    nodes.append(helper.make_node("Cast", ["flat"], ["cast"], to=output_type))
    sizes = [size if isinstance(size, int) else -1 for size in output_shape]
    wanted = helper.make_tensor("wanted", TensorProto.INT64, [len(sizes)], sizes)
    nodes.append(helper.make_node("Reshape", ["cast", "wanted"], ["labels"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("frames", input_type, input_shape)],
        [helper.make_tensor_value_info("labels", output_type, output_shape)],
        [shape, wanted],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)
    return file


@pytest.mark.parametrize(
    "tensors",
    [
        (TensorProto.FLOAT, [1, 4, 6, 3], TensorProto.UINT8, [1, 4, 18]),
        (TensorProto.UINT8, [1, 4, 6, 3], TensorProto.INT64, [1, 4, 18]),
        (TensorProto.UINT8, [1, 4, 18], TensorProto.UINT8, [1, 4, 18]),
        (TensorProto.UINT8, [1, 4, 6, 3], TensorProto.UINT8, [72]),
        (TensorProto.UINT8, [1, "h", 6, 3], TensorProto.UINT8, [1, "h", 18]),
    ],
    ids=["float in", "int64 out", "three axes in", "one axis out", "free height"],
)
def test_what_is_no_deploy_graph_is_refused(tmp_path: Path, tensors: Any) -> None:
    file = graph_file(tmp_path / "g.onnx", *tensors)
    with pytest.raises(UserError, match=r"not a deploy graph: input .*; needed: uint8 frames \(N, H, W, 3\) in"):
        runtimes.build("onnxruntime", {}).load(file)


def test_the_core_graph_is_no_engine(student: Any) -> None:
    with pytest.raises(UserError, match=r"not a deploy graph: input tensor\(float\) \[1, 3, 128, 192\]"):
        runtimes.build("onnxruntime", {}).load(student.onnx.file("core.onnx"))


@pytest.mark.parametrize("content", [b"", b"not an onnx file", None], ids=["empty", "text", "missing"])
def test_a_corrupt_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "broken.onnx"
    if content is not None:
        file.write_bytes(content)
    runtime = runtimes.build("onnxruntime", {})
    with pytest.raises(UserError, match=r"broken.onnx: ONNX Runtime [\d.]+ cannot load it: "):
        runtime.load(file)
    with pytest.raises(UserError, match=r"broken.onnx: ONNX Runtime [\d.]+ cannot load it: "):
        runtime.build(file, tmp_path / "out.onnx")


@pytest.mark.skipif(_cuda.device() is not None, reason="this machine has a CUDA device; the test is about its absence")
@pytest.mark.parametrize(
    ("provider", "name"), [("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")]
)
def test_a_gpu_never_falls_back_to_the_cpu(student: Any, facts: Any, tmp_path: Path, provider: str, name: str) -> None:
    options = {"provider": provider}
    runtime = runtimes.build("onnxruntime", options)
    source = student.onnx.file("fp32.onnx")
    with pytest.raises(UserError, match=rf"{name}.*install the libraries.*convert.onnxruntime.provider"):
        runtimes.build_engine(runtime, source, tmp_path / "e", name="onnxruntime", options=options, meta=facts)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=rf"{name}.*install the libraries.*convert.onnxruntime.provider"):
        runtime.load(source)


class Pretending(onnxruntime.InferenceSession):
    """A session on the CPU that claims to have the requested providers."""

    asked: ClassVar[list[Any]] = []

    def __init__(self, path: str, options: Any, *, providers: list[Any], enable_fallback: int) -> None:
        super().__init__(path, options, providers=["CPUExecutionProvider"], enable_fallback=enable_fallback)
        self.named = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        self.asked.append(providers)

    def get_providers(self) -> list[str]:
        return self.named


@pytest.fixture
def pretending(monkeypatch: pytest.MonkeyPatch) -> type[Pretending]:
    monkeypatch.setattr(onnxruntime, "InferenceSession", Pretending)
    monkeypatch.setattr(Pretending, "asked", [])
    return Pretending


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("onnx", "fp32.onnx", set()),
        ("onnx", "fp16.onnx", {"trt_fp16_enable"}),
        ("int8", "int8_tensorrt.onnx", {"trt_fp16_enable", "trt_int8_enable"}),
    ],
)
def test_tensorrt_gets_the_precision_of_the_file(
    student: Any, pretending: Any, tmp_path: Path, kind: str, name: str, options: set[str]
) -> None:
    runtime = runtimes.build("onnxruntime", {"provider": "tensorrt"})
    assert runtime.int8_variant == "int8_tensorrt"
    source = getattr(student, kind).file(name)
    assert runtime.build(source, tmp_path / "engine.onnx")["provider"] == "TensorrtExecutionProvider"
    assert (tmp_path / "engine.onnx").read_bytes() == source.read_bytes()
    engine: Any = runtime.load(tmp_path / "engine.onnx")
    expected = [("TensorrtExecutionProvider", dict.fromkeys(options, "1")), "CUDAExecutionProvider"]
    assert pretending.asked == [["CPUExecutionProvider"], expected] * 2  # the file is read, then opened
    assert not engine.session._enable_fallback  # a failed run does not change the providers either


@pytest.mark.parametrize(("precision", "options"), [("fp16", {}), ("int8", {"trt_int8_enable": "1"})])
def test_tensorrt_may_not_use_float16_where_a_node_must_stay_in_float32(
    student: Any, pretending: Any, tmp_path: Path, precision: str, options: dict[str, str]
) -> None:
    """It builds weakly typed: with float16 allowed it would ignore the Casts around these nodes."""
    model = onnx.load(student.onnx.file("fp16.onnx"))
    about = {"precision": precision, "float16": {"float32_nodes": {"conv": "'x' reaches 1e+06"}}}
    onnx.helper.set_model_props(model, {"segpress": json.dumps(about)})
    onnx.save(model, tmp_path / "mixed.onnx")
    runtimes.build("onnxruntime", {"provider": "tensorrt"}).load(tmp_path / "mixed.onnx")
    assert pretending.asked[-1][0] == ("TensorrtExecutionProvider", options)


def test_a_file_that_does_not_say_its_precision_is_refused(student: Any, pretending: Any, tmp_path: Path) -> None:
    model = onnx.load(student.onnx.file("fp32.onnx"))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "plain.onnx")
    with pytest.raises(UserError, match=r"plain.onnx: its precision is None; allowed: fp32, fp16, int8"):
        runtimes.build("onnxruntime", {"provider": "tensorrt"}).load(tmp_path / "plain.onnx")
    assert pretending.asked == [["CPUExecutionProvider"]]


@pytest.mark.parametrize("provider", ["cpu", "cuda", "tensorrt"])
def test_engines_of_a_gpu_are_bound_to_it(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    gpu = {"gpu": "NVIDIA Orin", "compute_capability": "8.7"}
    monkeypatch.setattr(_cuda, "device", lambda: gpu)
    fingerprint = runtimes.build("onnxruntime", {"provider": provider}).fingerprint()
    assert {key: fingerprint.get(key) for key in gpu} == (dict.fromkeys(gpu) if provider == "cpu" else gpu)
    assert fingerprint["onnxruntime"].count(".") == 2
    assert fingerprint["cpu"] == plugin.cpu_model() != ""


def test_int8_counts_as_slow_where_there_are_no_int8_kernels() -> None:
    why = {name: runtimes.build("onnxruntime", {"provider": name}).slow_int8 for name in ("cpu", "cuda", "tensorrt")}
    assert why["cpu"] == why["tensorrt"] == "" and "no INT8 kernels for CUDA" in why["cuda"]


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(UserError, match=r"did you mean 'threads'"):
        runtimes.build("onnxruntime", {"thread": 2})


def test_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="pip install onnxruntime-gpu"):
        plugin.OnnxRuntime()
