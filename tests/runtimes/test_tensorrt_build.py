"""Real builds on a machine without a GPU, with TensorRT-RTX; errors for files that it cannot build or load."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from pipeline import artifact, models, runtimes
from pipeline.errors import UserError
from pipeline.export.graphs import DeployGraph
from pipeline.export.onnx_file import export
from pipeline.quantization import calibration, calibration_artifact, tensorrt
from pipeline.quantization import graph as graphs
from pipeline.quantization.half import to_float16
from pipeline.quantization.ranges import choose_all
from pipeline.runtimes import _cuda
from pipeline.runtimes._tensorrt.errors import node_of

OPTIONS = {"compute_capabilities": ["SM86"], "workspace_mib": 256}
SOURCES = {"fp32": ("onnx", "fp32.onnx"), "fp16": ("onnx", "fp16.onnx"), "int8": ("int8", "int8_tensorrt.onnx")}


@pytest.fixture(scope="module")
def rtx() -> Any:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx builds engines without a GPU: pip install segpress[rtx]")
    return runtimes.build("tensorrt_rtx", OPTIONS)


@pytest.fixture(scope="module")
def engines(rtx: Any, student: Any, facts: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp32, fp16 and int8 engines of the student for SM 8.6."""
    folder = tmp_path_factory.mktemp("rtx")
    for precision, (kind, name) in SOURCES.items():
        meta = {**facts, "precision": precision}
        source = getattr(student, kind).file(name)
        runtimes.build_engine(rtx, source, folder / precision, name="tensorrt_rtx", options=OPTIONS, meta=meta)
    return folder


@pytest.mark.parametrize("precision", SOURCES)
def test_engine_artifact(engines: Path, rtx: Any, facts: Any, precision: str) -> None:
    built = artifact.load(engines / precision, kind="engine")
    assert sorted(p.name for p in built.path.iterdir()) == ["engine.plan", "meta.json"]
    assert built.file("engine.plan").stat().st_size > 1_000_000
    meta = built.meta
    assert (meta["runtime"], meta["runtime_options"], meta["precision"]) == ("tensorrt_rtx", OPTIONS, precision)
    assert meta["fingerprint"] == rtx.fingerprint()
    assert meta["fingerprint"]["tensorrt_rtx"].startswith("1.")
    assert {key: meta[key] for key in facts} == facts
    assert meta["build"]["strongly_typed"] is True
    assert meta["build"]["compute_capabilities"] == ["SM86"]
    assert meta["build"]["layers"] > 50
    assert str(engines) not in json.dumps(meta)


def plan_size(engines: Path, precision: str) -> int:
    return (engines / precision / "engine.plan").stat().st_size


def test_precision_is_in_the_file(engines: Path) -> None:
    """float16 halves the weights. (The INT8 plan of so small a network is larger: more kernels than weights.)"""
    assert plan_size(engines, "fp16") < 0.8 * plan_size(engines, "fp32")
    layers = {p: artifact.load(engines / p, kind="engine").meta["build"]["layers"] for p in SOURCES}
    assert layers["fp16"] == layers["fp32"] < layers["int8"]


def test_layers_have_the_precision_that_the_file_asks_for(engines: Path, student: Any) -> None:
    """Counted in the parsed network, and in the ONNX file: convolutions whose weight is dequantised."""
    model = onnx.load(student.int8.file("int8_tensorrt.onnx"))
    producers = {name: node.op_type for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    int8 = sum(producers.get(node.input[1]) == "DequantizeLinear" for node in convolutions)
    built = {p: artifact.load(engines / p, kind="engine").meta["build"]["precisions"] for p in SOURCES}
    assert built["fp32"] == {"convolution": {"float32": len(convolutions)}}
    assert built["fp16"] == {"convolution": {"float16": len(convolutions)}}
    assert built["int8"] == {"convolution": {"int8": int8, "float16": len(convolutions) - int8}}
    assert 0.7 * len(convolutions) < int8 < len(convolutions)


def test_int8_shrinks_the_engine_of_a_network_with_many_weights(rtx: Any, write_int8: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"architecture": "fpn", "encoder": "resnet18"}
    network = models.build("smp", options, num_classes=5).eval()
    frame = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    source = tmp_path / "fp32.onnx"
    export(DeployGraph(network, input_size=(64, 96)), frame, source, inputs="frames", outputs="labels")
    collected = calibration.collect(source, [frame[0].numpy()])
    ranges = choose_all(collected.histograms, method="minmax", percentile=99)
    write_int8(tensorrt, source, tmp_path / "int8.onnx", ranges, float_head=True)
    size = {}
    for name in ("fp32", "int8"):
        rtx.build(tmp_path / f"{name}.onnx", tmp_path / f"{name}.plan")
        size[name] = (tmp_path / f"{name}.plan").stat().st_size
    weights = sum(p.numel() for p in network.parameters())
    assert size["fp32"] > 4 * weights
    assert size["int8"] < 0.5 * size["fp32"]


def test_graphs_of_float16_float32_and_int8_build(rtx: Any, student: Any, tmp_path: Path) -> None:
    """Strongly typed: nodes that must stay in float32 do, and INT8 layers with float32 scales are INT8."""
    graph = graphs.load(str(student.onnx.file("fp32.onnx")))
    layers = [layer.name for layer in graph.layers]
    output = graph.layers[6].output[0]
    wide = [*layers[4:9], *(reader.name for reader in graph.consumers[output])]
    half = onnx.ModelProto()
    half.CopyFrom(graph.model)
    to_float16(half, float32=wide)
    onnx.save(half, tmp_path / "fp16.onnx")
    counts = rtx.build(tmp_path / "fp16.onnx", tmp_path / "fp16.plan")["precisions"]["convolution"]
    assert counts["float32"] == 5 and counts["float16"] == len(layers) + 1 - 5  # and the normaliser
    ranges = choose_all(calibration_artifact.load(student.calibration).histograms, method="minmax", percentile=99)
    float_nodes = {graph.classifier.name}
    plain = tensorrt.place(graph, ranges, float_nodes=float_nodes)
    onnx.save(tensorrt.place(graph, ranges, float_nodes=float_nodes, float32=wide), tmp_path / "int8.onnx")
    counts = rtx.build(tmp_path / "int8.onnx", tmp_path / "int8.plan")["precisions"]["convolution"]
    producers = {name: node.op_type for node in plain.graph.node for name in node.output}
    int8 = sum(
        node.op_type == "Conv" and producers.get(node.input[1]) == "DequantizeLinear" for node in plain.graph.node
    )
    assert counts["int8"] == int8


def test_a_node_that_does_not_parse_is_named(rtx: Any, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("Wobble", ["x"], ["y"], name="the_wobble")
    model = helper.make_model(helper.make_graph([node], "g", [value], [out]))
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"bad.onnx: tensorrt_rtx .* cannot parse it: node 0 \(the_wobble, Wobble\): "):
        rtx.build(tmp_path / "bad.onnx", tmp_path / "engine.plan")
    assert not (tmp_path / "engine.plan").exists()


def test_a_file_that_is_no_onnx_is_refused(rtx: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not onnx")
    with pytest.raises(UserError, match=r"bad.onnx: tensorrt_rtx .* cannot parse it: .*Failed to parse"):
        rtx.build(tmp_path / "bad.onnx", tmp_path / "engine.plan")


def test_parser_errors_of_an_older_library_have_an_index_only() -> None:
    assert node_of(SimpleNamespace(node=lambda: 3)) == "node 3"
    named = SimpleNamespace(node=lambda: 3, node_name=lambda: "conv", node_operator=lambda: "Conv")
    assert node_of(named) == "node 3 (conv, Conv)"


def test_asymmetric_int8_is_refused_by_the_parser(rtx: Any, student: Any, tmp_path: Path) -> None:
    """Why there are two INT8 files: TensorRT refuses the uint8 activations of the CPU's file."""
    with pytest.raises(UserError, match=r"cannot parse it|could not build"):
        rtx.build(student.int8.file("int8_cpu.onnx"), tmp_path / "engine.plan")


def test_an_unknown_target_is_refused_with_the_closest_name(rtx: Any) -> None:
    with pytest.raises(UserError, match=r"compute_capabilities: no 'SM87'; did you mean 'SM8[69]'\?"):
        runtimes.build("tensorrt_rtx", {"compute_capabilities": ["SM86", "SM87"]})


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(UserError, match=r"tensorrt does not import.*pip install tensorrt .*python3-libnvinfer"):
        runtimes.build("tensorrt", {})
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(UserError, match=r"tensorrt_rtx does not import.*pip install tensorrt-rtx"):
        runtimes.build("tensorrt_rtx", {})


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is installed here")
def test_tensorrt_is_not_needed_until_it_is_chosen() -> None:
    with pytest.raises(UserError, match="No module named 'tensorrt'"):
        runtimes.build("tensorrt", {})


@pytest.mark.skipif(_cuda.device() is not None, reason="this machine has a GPU; the test is about its absence")
def test_a_plan_needs_a_gpu(engines: Path) -> None:
    with pytest.raises(UserError, match=r"engine.plan: a tensorrt_rtx engine needs an NVIDIA GPU and its driver"):
        runtimes.open_engine(engines / "fp16")


def test_a_plan_of_another_gpu_is_refused(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cuda, "device", lambda: {"gpu": "NVIDIA GeForce RTX 4090", "compute_capability": "8.9"})
    with pytest.raises(UserError, match=r"was built for SM86; this GPU is SM89"):
        runtimes.open_engine(engines / "fp32")
