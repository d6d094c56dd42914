"""Every architecture goes the whole way: network, ONNX, both INT8 files, engines for the CPU and for TensorRT-RTX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import artifact, models, runtimes
from pipeline.export.export import export_network
from pipeline.labels import LabelSpec
from pipeline.quantization.calibrate import calibrate
from pipeline.quantization.quantize import Settings, quantize
from pipeline.training import network_artifact

pytestmark = pytest.mark.slow

SIZE = (128, 192)
MATRIX = [
    ("deeplabv3", "resnet18"),
    ("deeplabv3plus", "tu-resnet10t"),
    ("pspnet", "resnet18"),
    ("fpn", "mobilenet_v2"),
    ("unet", "tu-mobilenetv3_small_100"),
    ("segformer", "mit_b0"),
]


@pytest.mark.parametrize(("architecture", "encoder"), MATRIX)
def test_from_network_to_engines(architecture: str, encoder: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install segpress[rtx]")
    torch.manual_seed(0)
    options = {"architecture": architecture, "encoder": encoder}
    labels = LabelSpec(names=("a", "b", "c", "d"), palette=((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)))
    network = models.build("smp", options, num_classes=4).eval()
    saved = tmp_path / "network"
    network_artifact.save(saved, network, name="smp", options=options, labels=labels, input_size=SIZE, facts={})
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
    for name, onnx in (("fp32", source.file("fp32.onnx")), ("int8", int8.file("int8_cpu.onnx"))):
        cpu.build(onnx, tmp_path / f"{name}.onnx")
        answers[name] = cpu.load(tmp_path / f"{name}.onnx").run(frames[0][None])
    assert (answers["fp32"] == answers["int8"]).mean() > 0.75, "random weights tie often, but INT8 is no other network"
    rtx = runtimes.build("tensorrt_rtx", {"compute_capabilities": ["SM86"]})
    for name, onnx in (("fp16", source.file("fp16.onnx")), ("int8", int8.file("int8_tensorrt.onnx"))):
        facts = rtx.build(onnx, tmp_path / f"{name}.plan")
        assert facts["strongly_typed"] and (tmp_path / f"{name}.plan").stat().st_size > 100_000
