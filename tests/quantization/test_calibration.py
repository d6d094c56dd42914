"""Calibration: its statistics, what it refuses, and that equal inputs give equal files."""

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
from safetensors import SafetensorError

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.quantization import calibration
from pipeline.quantization import graph as graphs
from pipeline.quantization.calibration_artifact import calibrate
from pipeline.quantization.quantize import Settings, quantize


def test_extremes_are_those_of_the_reference_evaluator(
    make: Callable[..., onnx.ModelProto], frames: Any, tmp_path: Path
) -> None:
    model = make("squeeze")
    onnx.save(model, tmp_path / "g.onnx")
    ticks: list[int] = []
    histograms = calibration.collect(tmp_path / "g.onnx", frames, progress=lambda: ticks.append(1)).histograms
    assert list(histograms) == ["x", "a", "a_relu", "pooled", "gate", "gate_sigmoid", "gated", "logits"]
    assert len(ticks) == len(frames)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in histograms)
    reference = ReferenceEvaluator(model)
    values = [dict(zip(reference.output_names, reference.run(None, {"frames": f[None]}), strict=True)) for f in frames]
    for name, histogram in histograms.items():
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
        calibration.collect(tmp_path / "g.onnx", frames)


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
    with pytest.raises(
        UserError, match=r"tensor 'broken' is NaN or infinite on a calibration frame; .*export it again"
    ):
        calibration.collect(tmp_path / "g.onnx", frames)


def test_no_frames_are_refused(make: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    onnx.save(make("one_conv"), tmp_path / "g.onnx")
    with pytest.raises(UserError, match="no calibration frames"):
        calibration.collect(tmp_path / "g.onnx", [])


@pytest.fixture(scope="module")
def both_orders(student: Any, tmp_path_factory: pytest.TempPathFactory) -> list[artifact.Artifact]:
    """Two calibrations, of the same frames in opposite order."""
    folder = tmp_path_factory.mktemp("orders")
    for name, frames in (("forward", student.frames), ("backward", student.frames[::-1])):
        calibrate(student.onnx, folder / name, frames=frames, facts={"calibration_frames": {"names": []}})
    return [artifact.load(folder / name, kind="calibration") for name in ("forward", "backward")]


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_equal_frames_in_any_order_give_equal_files(
    student: Any, both_orders: list[artifact.Artifact], tmp_path: Path, method: str
) -> None:
    hashes = []
    for run, calibrated in enumerate(both_orders):
        out = tmp_path / str(run)
        quantize(student.onnx, calibrated, out, settings=Settings(method=method, bias_correction=True))
        hashes.append(artifact.load(out, kind="int8").meta["files"])
    assert hashes[0] == hashes[1]
    assert sorted(hashes[0]) == ["int8_arm.onnx", "int8_cpu.onnx", "int8_tensorrt.onnx", "ranges.json"]


def test_the_artifact_records_its_parents_and_settings(student: Any) -> None:
    meta = student.int8.meta
    assert meta["parents"] == {"onnx": student.onnx.hash, "calibration": student.calibration.hash}
    assert (meta["precision"], meta["calibration_frames"]["names"]) == ("int8", ["a", "b", "c", "d"])
    assert meta["calibration"] == {"method": "minmax", "float_head": True, "bias_correction": False}
    assert "parity" not in meta
    for key in ("classes", "palette", "input_size", "input", "output", "mean", "std"):
        assert meta[key] == student.onnx.meta[key]
    ranges = json.loads(student.int8.file("ranges.json").read_text())
    assert set(ranges) == {"cpu", "tensorrt"} and ranges["cpu"].keys() == ranges["tensorrt"].keys()
    assert len(ranges["cpu"]) > 50
    pairs = [pair for family in ranges.values() for pair in family.values()]
    assert all(low <= 0 <= high for low, high in pairs)
    rounded = [value for pair in pairs for value in pair]
    assert all(value == float(f"{value:.9g}") for value in rounded)


def test_channel_means_are_numpys(make: Callable[..., onnx.ModelProto], frames: Any, tmp_path: Path) -> None:
    model = make("other_layers")
    onnx.save(model, tmp_path / "g.onnx")
    statistics = calibration.collect(tmp_path / "g.onnx", frames)
    assert sorted(statistics.channel_sums) == ["a_relu", "flat", "g", "gated", "h", "x"]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in statistics.channel_sums)
    reference = ReferenceEvaluator(model)
    values = [dict(zip(reference.output_names, reference.run(None, {"frames": f[None]}), strict=True)) for f in frames]
    for name in statistics.channel_sums:
        everything = np.stack([value[name] for value in values]).astype(np.float64)  # (frames, 1, C, ...)
        axes = tuple(axis for axis in range(everything.ndim) if axis != 2)
        np.testing.assert_allclose(statistics.channel_mean(name), everything.mean(axis=axes), rtol=1e-4, atol=1e-4)


class Counted(list[Any]):
    """Frames that record which of them were read, and may raise KeyboardInterrupt."""

    def __init__(self, frames: Any, *, stop_at: int | None = None) -> None:
        super().__init__(frames)
        self.read: list[int] = []
        self.stop_at = stop_at

    def __getitem__(self, index: Any) -> Any:
        if index == self.stop_at:
            raise KeyboardInterrupt
        self.read.append(index)
        return super().__getitem__(index)


@pytest.mark.parametrize("stop_at", [0, 1, 3])
def test_an_interrupted_pass_resumes_with_the_same_result(student: Any, tmp_path: Path, stop_at: int) -> None:
    onnx_file, checkpoint = student.onnx.file("fp32.onnx"), tmp_path / "deep" / "checkpoint.safetensors"
    whole = calibration.collect(onnx_file, student.frames)
    with pytest.raises(KeyboardInterrupt):
        stopping = Counted(student.frames, stop_at=stop_at)
        calibration.collect(onnx_file, stopping, checkpoint=checkpoint, interval=0)
    rest, ticks = Counted(student.frames), []
    statistics = calibration.collect(
        onnx_file, rest, checkpoint=checkpoint, interval=0, progress=lambda: ticks.append(1)
    )
    assert rest.read == list(range(stop_at, 4)) and len(ticks) == 4
    assert not checkpoint.exists()
    for one, name in ((whole, "whole"), (statistics, "statistics")):
        one.save(tmp_path / name)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "statistics").read_bytes()


@pytest.mark.parametrize("what", ["identity", "network", "damage"])
def test_a_damaged_checkpoint_or_one_of_another_pass_is_ignored(
    student: Any, make: Callable[..., onnx.ModelProto], tmp_path: Path, caplog: Any, what: str
) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        stopping = Counted(student.frames, stop_at=3)
        calibration.collect(student.onnx.file("fp32.onnx"), stopping, checkpoint=checkpoint, interval=0, identity="a")
    file, frames, identity = student.onnx.file("fp32.onnx"), Counted(student.frames), "a"
    if what == "identity":
        identity = "b"
    elif what == "network":
        file, frames = tmp_path / "g.onnx", Counted([frame[:16, :16] for frame in student.frames])
        onnx.save(make("one_conv"), file)
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[:-50])
    calibration.collect(file, frames, checkpoint=checkpoint, identity=identity)
    assert frames.read == [0, 1, 2, 3]
    assert "starting over" in caplog.text


def test_a_pass_continues_when_the_disk_is_full(student: Any, monkeypatch: Any, tmp_path: Path, caplog: Any) -> None:
    def full(tensors: Any, file: Any, metadata: Any = None) -> None:
        Path(file).write_bytes(b"half")
        raise SafetensorError("No space left on device (os error 28)")

    whole = calibration.collect(student.onnx.file("fp32.onnx"), student.frames)
    whole.save(tmp_path / "kept")
    before = (tmp_path / "kept").read_bytes()
    monkeypatch.setattr(calibration, "save_file", full)
    checkpoint = tmp_path / "folder" / "checkpoint"
    statistics = calibration.collect(student.onnx.file("fp32.onnx"), student.frames, checkpoint=checkpoint, interval=0)
    assert statistics.frames == 4 and caplog.text.count("No space left") == 4
    assert list(checkpoint.parent.iterdir()) == []
    with pytest.raises(UserError, match=r"kept: cannot be written \(No space left"):
        statistics.save(tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        statistics.save(tmp_path / "file" / "below")


def test_large_activations_are_returned_in_pieces(student: Any, monkeypatch: Any) -> None:
    whole = calibration.collect(student.onnx.file("fp32.onnx"), student.frames)
    monkeypatch.setattr(calibration, "FETCHED", 200_000)
    graph = graphs.load(str(student.onnx.file("fp32.onnx")))
    pieces = list(calibration.pieces(graph, graph.float_activations()))
    assert len(pieces) > 10
    assert [o.name for piece in pieces for o in piece.graph.output] == graph.float_activations()
    for piece in pieces:
        sizes = [4 * int(np.prod(graph.shapes[output.name])) for output in piece.graph.output]
        assert sum(sizes) <= 200_000 or len(sizes) == 1
    statistics = calibration.collect(student.onnx.file("fp32.onnx"), student.frames)
    assert list(statistics.histograms) == list(whole.histograms)
    for name, histogram in statistics.histograms.items():
        assert np.abs(histogram.counts - whole.histograms[name].counts).sum() <= 1e-3 * histogram.counts.sum()


def test_free_shapes_are_refused(make: Callable[..., onnx.ModelProto], frames: Any, tmp_path: Path) -> None:
    model = make("one_conv")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(UserError, match="has no fixed shape; export with a fixed height and width"):
        calibration.collect(tmp_path / "g.onnx", frames)
