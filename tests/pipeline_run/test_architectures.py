"""Every architecture goes the whole way: network, ONNX, both INT8 files, engines for the CPU and for TensorRT-RTX."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pipeline import artifact, models, runtimes
from pipeline.export.export import export_network
from pipeline.labels import LabelSpec
from pipeline.models.weights import network_artifact
from pipeline.quantization.calibration_artifact import calibrate
from pipeline.quantization.quantize import Settings, quantize

pytestmark = pytest.mark.slow

SIZE = (128, 192)
ARCHITECTURES = ("deeplabv3", "deeplabv3plus", "pspnet", "fpn", "segformer", "unet")
ENCODERS = ("resnet18", "tu-mobilenetv3_small_100", "mit_b0")
SMP = [*itertools.product(ARCHITECTURES, ENCODERS), ("deeplabv3plus", "tu-resnet10t"), ("fpn", "mobilenet_v2")]
TORCHVISION = [("deeplabv3", "mobilenet_v3_large"), ("fcn", "resnet50"), ("lraspp", "mobilenet_v3_large")]
MATRIX = [*(("smp", *each) for each in SMP), *(("torchvision", *each) for each in TORCHVISION)]
#: How TensorRT calls the layers with weights.
NAMES = {
    "Conv": "convolution",
    "ConvTranspose": "deconvolution",
    "MatMul": "matrix product",
    "Gemm": "matrix product",
}


@pytest.mark.parametrize(("plugin", "architecture", "encoder"), MATRIX)
def test_from_network_to_engines(plugin: str, architecture: str, encoder: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install segpress[rtx]")
    torch.manual_seed(0)
    options = {"architecture": architecture, "encoder": encoder}
    labels = LabelSpec(names=("a", "b", "c", "d"), palette=((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)))
    network = models.build(plugin, options, num_classes=4).eval()
    saved = tmp_path / "network"
    network_artifact.save(saved, network, name=plugin, options=options, labels=labels, input_size=SIZE, facts={})
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(3)]

    loaded, found = network_artifact.load(saved)
    parity = export_network(loaded, found, tmp_path / "onnx", frames=frames, label_stride=1, built_with={})
    assert parity["agreement"]["fp32"] >= 0.999
    source = artifact.load(tmp_path / "onnx", kind="onnx")
    calibrate(source, tmp_path / "calibration", frames=frames, facts={"calibration_frames": {"names": []}})
    calibrated = artifact.load(tmp_path / "calibration", kind="calibration")
    quantize(source, calibrated, tmp_path / "int8", settings=Settings(method="minmax", bias_correction=True))
    int8 = artifact.load(tmp_path / "int8", kind="int8")
    cpu = runtimes.build("onnxruntime", {"threads": 2})
    answers = {}
    for name, file in (("fp32", source.file("fp32.onnx")), ("int8", int8.file("int8_cpu.onnx"))):
        cpu.build(file, tmp_path / f"{name}.onnx")
        answers[name] = cpu.load(tmp_path / f"{name}.onnx").run(frames[0][None])
    assert (answers["fp32"] == answers["int8"]).mean() > 0.75, "random weights tie often, but INT8 is no other network"
    rtx = runtimes.build("tensorrt_rtx", {"compute_capabilities": ["SM86"]})
    facts = rtx.build(source.file("fp16.onnx"), tmp_path / "fp16.plan")
    nodes = {node.name: node.op_type for node in onnx.load(source.file("fp16.onnx")).graph.node}
    kept = sum(nodes[name] == "Conv" for name in source.meta["float16"]["float32_nodes"])  # random weights: tiny values
    convolutions = facts["precisions"]["convolution"]
    assert facts["strongly_typed"] and convolutions.get("float32", 0) == kept and convolutions["float16"] > kept // 2
    assert set(convolutions) <= {"float16", "float32"}
    facts = rtx.build_int8(int8.file("int8_tensorrt.onnx"), tmp_path / "int8.plan")
    assert (facts["strongly_typed"], facts["rung"]) == (True, "strongly_typed")
    assert {kind: counts["int8"] for kind, counts in facts["precisions"].items() if "int8" in counts} == asked_for(
        int8.file("int8_tensorrt.onnx")
    )
    assert min((tmp_path / f"{name}.plan").stat().st_size for name in ("fp16", "int8")) > 100_000


def asked_for(file: Path) -> dict[str, int]:
    """How many layers of each kind read both operands from DequantizeLinear, in the ONNX file."""
    graph = onnx.load(file).graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    layers = [
        NAMES[node.op_type]
        for node in graph.node
        if node.op_type in NAMES and all(made.get(name) == "DequantizeLinear" for name in node.input[:2])
    ]
    return dict(Counter(layers))
