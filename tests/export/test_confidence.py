"""The second output of every file that is built from a deploy graph: its values; the labels do not change."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pipeline import artifact, runtimes
from pipeline.errors import UserError
from pipeline.export import confidence, parity
from pipeline.export.confidence import add_confidence
from pipeline.export.export import export_network
from pipeline.quantization.calibration_artifact import calibrate
from pipeline.quantization.half_rounding import rounded
from pipeline.quantization.quantize import Settings, quantize
from pipeline.runtimes import CONFIDENCE

FLOATS, INT8 = ("fp32", "fp16"), ("int8_cpu", "int8_arm", "int8_tensorrt")


@pytest.fixture(scope="module")
def confident(student: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The student, exported and quantised again with the second output: artifacts ``onnx`` and ``int8``."""
    folder = tmp_path_factory.mktemp("confident")
    export_network(
        student.network,
        student.parent,
        folder / "onnx",
        frames=student.frames,
        label_stride=1,
        confidence=True,
        built_with={"torch": torch.__version__},
    )
    source = artifact.load(folder / "onnx", kind="onnx")
    calibrate(source, folder / "calibration", frames=student.frames, facts={"calibration_frames": {"names": []}})
    calibration = artifact.load(folder / "calibration", kind="calibration")
    quantize(source, calibration, folder / "int8", settings=Settings(method="minmax"))
    return SimpleNamespace(onnx=source, int8=artifact.load(folder / "int8", kind="int8"))


def source_of(source: Any, name: str) -> Path:
    folder: Path = (source.onnx if name in FLOATS else source.int8).file(f"{name}.onnx")
    return folder


def run(model: onnx.ModelProto, frame: Any) -> list[Any]:
    """Every output, computed in the types of the file and without INT8 kernels."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(rounded(model).SerializeToString(), options, providers=providers)
    return list(session.run(None, {"frames": frame[None]}))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_it_is_the_softmax_of_the_upsampled_logits(
    tiny: Any, plain_scores: Any, export_of: Any, tmp_path: Path, stride: int
) -> None:
    """Against numpy in float64. The result is rounded by up to half a level; the remaining 0.01 is float32 rounding."""
    model = onnx.load(export_of(tiny, tmp_path, label_stride=stride))
    add_confidence(model)
    onnx.checker.check_model(model, full_check=True)
    frame = np.random.default_rng(5).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    labels, levels = run(model, frame)
    scores = plain_scores(tiny, frame, label_stride=stride)
    shares = np.exp(scores) / np.exp(scores).sum(axis=0)
    assert levels.shape == labels.shape == (1, 32 // stride, 48 // stride) and levels.dtype == np.uint8
    assert np.abs(levels[0] - 255 * shares.max(axis=0)).max() < 0.51
    assert np.ptp(levels) > 20


def test_logits_far_apart_neither_overflow_nor_lose_a_level(
    tiny: Any, plain_scores: Any, export_of: Any, tmp_path: Path
) -> None:
    """The logits of two classes differ by thousands, so exp() of the logits themselves would be infinite."""
    weight, bias = tiny.classifier.weight.detach().clone(), tiny.classifier.bias.detach().clone()
    try:
        with torch.no_grad():
            tiny.classifier.weight *= 1e4
        model = onnx.load(export_of(tiny, tmp_path, label_stride=1))
    finally:
        with torch.no_grad():
            tiny.classifier.weight.copy_(weight)
            tiny.classifier.bias.copy_(bias)
    add_confidence(model)
    frame = np.random.default_rng(5).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    levels = run(model, frame)[1]
    assert levels.min() >= 51 and np.median(levels) == 255  # the best of five classes has at least a fifth


@pytest.mark.parametrize("name", [*FLOATS, *INT8])
def test_labels_are_equal_with_and_without_it(student: Any, confident: Any, name: str) -> None:
    plain, model = onnx.load(source_of(student, name)), onnx.load(source_of(confident, name))
    assert [output.name for output in model.graph.output] == ["labels", CONFIDENCE]
    added = {node.name for node in model.graph.node}.difference(node.name for node in plain.graph.node)
    assert all(node.startswith(confidence.PREFIX) or node == CONFIDENCE for node in added) and len(added) == 7
    for frame in student.frames:
        assert np.array_equal(run(model, frame)[0], run(plain, frame)[0])


@pytest.mark.parametrize(
    ("name", "most"),  # mean difference in levels of 255; measured for INT8: 2.9, 2.9 and 3.5
    [("fp16", 0.6), ("int8_cpu", 3.5), ("int8_arm", 3.5), ("int8_tensorrt", 4.5)],
)
def test_files_of_fewer_bits_have_nearly_the_same_confidence(
    student: Any, confident: Any, name: str, most: float
) -> None:
    exact, model = onnx.load(source_of(confident, "fp32")), onnx.load(source_of(confident, name))
    off = [np.abs(run(model, f)[1].astype(int) - run(exact, f)[1].astype(int)).mean() for f in student.frames]
    assert 0 < np.mean(off) < most


@pytest.mark.parametrize("name", ["fp32", "int8_cpu"])
def test_engines_return_it_and_the_same_labels(student: Any, confident: Any, name: str, tmp_path: Path) -> None:
    runtime = runtimes.build("onnxruntime", {"threads": 1})
    engines = []
    for source in (student, confident):
        file = tmp_path / f"{len(engines)}.onnx"
        runtime.build(source_of(source, name), file)
        engines.append(runtime.load(file))
    plain, engine = engines
    assert (plain.gives_confidence, engine.gives_confidence) == (False, True)
    other = engine.another()
    for frame in student.frames:
        labels, levels = engine.run_with_confidence(frame[None])
        assert np.array_equal(labels, plain.run(frame[None])) and np.array_equal(labels, engine.run(frame[None]))
        assert levels.dtype == np.uint8 and levels.shape == labels.shape
        assert np.array_equal(other.run_with_confidence(frame[None])[1], levels)
        assert np.abs(levels.astype(int) - run(onnx.load(source_of(confident, name)), frame)[1]).mean() < 3
    with pytest.raises(UserError, match=r"gives no confidence; set export\.confidence: true"):
        plain.run_with_confidence(student.frames[0][None])


def test_artifacts_record_it(student: Any, confident: Any) -> None:
    for meta in (confident.onnx.meta, confident.int8.meta):
        assert meta["confidence"] == {"name": "confidence", "dtype": "uint8", "layout": "NHW", "shape": [1, 128, 192]}
    assert "confidence" not in student.onnx.meta
    differences = confident.onnx.meta["parity"]["confidence_difference"]
    assert 0 < differences["fp32"] < 0.3 and 0 < differences["fp16"] < 0.6
    assert "confidence_difference" not in student.parity


def test_a_wrong_confidence_is_refused(student: Any, confident: Any, tmp_path: Path) -> None:
    for name in ("core", *FLOATS):
        model = onnx.load(confident.onnx.file(f"{name}.onnx"))
        for node in model.graph.node:
            if node.name == f"{confidence.PREFIX}behind":
                node.input[:] = list(node.input)[::-1]  # exp(max - x)
        onnx.save(model, tmp_path / f"{name}.onnx")
    with pytest.raises(UserError, match=r"the confidence of fp32\.onnx differs from torch by \d+\.\d of 255"):
        parity.check(student.network, tmp_path, student.frames[:1], label_stride=1)


def test_tensorrt_builds_it(confident: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx builds engines without a GPU: pip install segpress[rtx]")
    runtime = runtimes.build("tensorrt_rtx", {"compute_capabilities": ["SM86"], "workspace_mib": 256})
    for name in (*FLOATS, "int8_tensorrt"):
        assert runtime.build(source_of(confident, name), tmp_path / f"{name}.plan")["strongly_typed"] is True


def test_export_and_runtimes_use_the_same_name() -> None:
    assert CONFIDENCE == confidence.CONFIDENCE
