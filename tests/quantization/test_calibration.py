"""Calibration: what is collected, what is refused, and that equal inputs give equal files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.quantization import calibration
from pipeline.quantization.quantize import choose_frames, quantize


def test_extremes_are_those_of_the_reference_evaluator(
    make: Callable[..., onnx.ModelProto], frames: Any, tmp_path: Path
) -> None:
    model = make("squeeze")
    onnx.save(model, tmp_path / "g.onnx")
    ticks: list[int] = []
    found = calibration.collect(tmp_path / "g.onnx", iter(frames), threads=1, progress=lambda: ticks.append(1))
    assert list(found) == ["x", "a", "a_relu", "pooled", "gate", "gate_sigmoid", "gated", "logits"]
    assert len(ticks) == len(frames)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in found)
    reference = ReferenceEvaluator(model)
    values = [dict(zip(reference.output_names, reference.run(None, {"frames": f[None]}), strict=True)) for f in frames]
    for name, histogram in found.items():
        everything = np.stack([value[name] for value in values])
        assert histogram.counts.sum() == everything.size
        assert histogram.minimum == pytest.approx(everything.min(), abs=1e-4)
        assert histogram.maximum == pytest.approx(everything.max(), abs=1e-4)


def test_a_broken_weight_is_named(make: Callable[..., onnx.ModelProto], frames: Any, tmp_path: Path) -> None:
    model = make("one_conv")
    for tensor in model.graph.initializer:
        if tensor.name == "logits.b":
            tensor.CopyFrom(numpy_helper.from_array(np.full(5, np.nan, np.float32), "logits.b"))
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(UserError, match=r"weight 'logits\.b' holds NaN or infinity"):
        calibration.collect(tmp_path / "g.onnx", frames, threads=1)


@pytest.mark.parametrize(("operator", "what"), [("Log", "NaN"), ("Exp", "infinity")])
def test_a_broken_activation_is_named(
    make: Callable[..., onnx.ModelProto], frames: Any, tmp_path: Path, operator: str, what: str
) -> None:
    def fill(net: Any) -> None:
        net.conv("x", "a", 3, 5)
        net.add("Mul", ["a", net.constant("thousand", np.float32(1000))], "large")
        net.add(operator, ["large"], "broken")
        net.conv("broken", "logits", 5, 5)

    onnx.save(make(None, fill), tmp_path / "g.onnx")
    with pytest.raises(UserError, match="tensor 'broken' is not finite"):
        calibration.collect(tmp_path / "g.onnx", frames, threads=1)


def test_no_frames_are_refused(make: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    onnx.save(make("one_conv"), tmp_path / "g.onnx")
    with pytest.raises(UserError, match="no calibration frames"):
        calibration.collect(tmp_path / "g.onnx", [], threads=1)


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_equal_frames_in_any_order_give_equal_files(student: Any, tmp_path: Path, method: str) -> None:
    hashes = []
    for run, frames in enumerate((student.frames, student.frames[::-1])):
        out = tmp_path / str(run)
        quantize(
            student.onnx, out, frames=iter(frames), method=method, percentile=99.9, float_head=True, facts={"seed": 3}
        )
        hashes.append(artifact.load(out, kind="int8").meta["files"])
    assert hashes[0] == hashes[1]
    assert sorted(hashes[0]) == ["int8_cpu.onnx", "int8_tensorrt.onnx", "ranges.json"]


def test_the_artifact_tells_where_it_came_from(student: Any) -> None:
    meta = student.int8.meta
    assert meta["parents"] == {"onnx": student.onnx.hash}
    assert (meta["precision"], meta["seed"]) == ("int8", 0)
    assert meta["calibration"] == {"method": "minmax", "float_head": True}
    assert "parity" not in meta
    for key in ("classes", "palette", "input_size", "input", "output", "mean", "std"):
        assert meta[key] == student.onnx.meta[key]
    ranges = json.loads(student.int8.file("ranges.json").read_text())
    assert len(ranges) > 50
    assert all(low <= 0 <= high for low, high in ranges.values())
    rounded = [value for pair in ranges.values() for value in pair]
    assert all(value == float(f"{value:.9g}") for value in rounded)


def test_frames_are_drawn_from_train_without_repeats() -> None:
    names = [f"train-{index}" for index in range(50)]
    chosen = choose_frames(names, count=12, seed=4)
    assert chosen == choose_frames(names, count=12, seed=4)
    assert chosen != choose_frames(names, count=12, seed=5)
    assert len(set(chosen)) == 12
    assert chosen == sorted(chosen)
    assert set(chosen) <= set(range(50))
    assert choose_frames(names, count=80, seed=4) == list(range(50))
    counts = np.zeros(50)
    for seed in range(300):
        counts[choose_frames(names, count=12, seed=seed)] += 1
    assert 30 < counts.min() <= counts.max() < 120  # every frame has its chance: 72 expected, sd 7.4
