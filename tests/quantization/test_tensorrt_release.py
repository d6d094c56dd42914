"""Released layers compute the same as layers that were placed in float with weights rounded to int8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pipeline.quantization import graph as graphs
from pipeline.quantization import tensorrt
from pipeline.quantization.tensorrt_release import release

PATTERNS = ["residual", "projection", "concat", "depthwise", "upsampled", "other_layers", "normalised"]
PAIR = ("QuantizeLinear", "DequantizeLinear")


def rounded(graph: graphs.Graph, layer: str, *, scale_type: Any) -> graphs.Graph:
    """The float graph with the weight of one layer rounded to int8 in numpy; the scale is amax / 127 per channel."""
    changed = graph.copy()
    node = next(node for node in changed.nodes if node.name == layer)
    weight = numpy_helper.to_array(changed.initializers[node.input[1]])
    transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    axis = 0 if node.op_type == "Conv" or transposed else 1
    others = tuple(index for index in range(weight.ndim) if index != axis)
    scale = (np.abs(weight).max(axis=others, keepdims=True) / np.float32(127)).astype(scale_type).astype(np.float32)
    values = np.clip(np.rint(weight / scale), -127, 127) * scale
    changed.initializers[node.input[1]].CopyFrom(numpy_helper.from_array(values, node.input[1]))
    return changed


def pairs(model: onnx.ModelProto) -> list[str]:
    return sorted(node.name for node in model.graph.node if node.op_type in PAIR)


@pytest.fixture
def placed(calibrated: Any, tmp_path: Path) -> Callable[..., tuple[graphs.Graph, Any, Path]]:
    """``placed(pattern, float16=...)`` -> (float graph, ranges, INT8 file)."""

    def place(name: str, *, float16: bool) -> tuple[graphs.Graph, Any, Path]:
        source, ranges = calibrated(name)
        graph = graphs.load(str(source))
        onnx.save(tensorrt.place(graph, ranges, float16=float16), tmp_path / "int8.onnx")
        return graph, ranges, tmp_path / "int8.onnx"

    return place


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_released_layer_equals_one_placed_in_float(
    placed: Any, evaluate: Any, frames: Any, tmp_path: Path, pattern: str, float16: bool
) -> None:
    graph, ranges, file = placed(pattern, float16=float16)
    quantised = {node.name for node in onnx.load(file).graph.node if any(n.endswith("_dq") for n in node.input)}
    layers = [layer.name for layer in graph.layers if layer.name in quantised]
    assert layers
    changed = 0
    for layer in layers:
        assert release(file, tmp_path / "released.onnx", nodes=[layer]) == [layer]
        released = onnx.load(tmp_path / "released.onnx")
        onnx.checker.check_model(released, full_check=True)
        source = rounded(graph, layer, scale_type=np.float16 if float16 else np.float32)
        expected = tensorrt.place(source, ranges, float_nodes=[layer], float16=float16)
        assert pairs(released) == pairs(expected)
        assert {t.name for t in released.graph.initializer} == {t.name for t in expected.graph.initializer}
        before = onnx.load(file)
        for frame in frames:
            values = [evaluate(model, frame, ["logits", "labels"]) for model in (released, expected, before)]
            np.testing.assert_array_equal(values[0]["logits"], values[1]["logits"])
            np.testing.assert_array_equal(values[0]["labels"], values[1]["labels"])
            changed += int(not np.array_equal(values[0]["logits"], values[2]["logits"]))
    assert changed, "releasing changed nothing at all"


def test_a_named_pair_means_the_layers_that_read_it(placed: Any, tmp_path: Path) -> None:
    """In `residual` the convolution `first` and the add `sum` read `skip`."""
    _, _, file = placed("residual", float16=True)
    for name in ("skip_quantize", "skip_dequantize"):
        assert release(file, tmp_path / "out.onnx", nodes=[name]) == ["first", "sum"]
        assert not [node for node in pairs(onnx.load(tmp_path / "out.onnx")) if node.startswith("skip_")]
    assert release(file, tmp_path / "out.onnx", nodes=["first.w_dequantize"]) == ["first"]
    assert "skip_quantize" in pairs(onnx.load(tmp_path / "out.onnx"))  # the add still reads it


def test_all_layers_released_leave_no_pair(placed: Any, evaluate: Any, frames: Any, tmp_path: Path) -> None:
    graph, _, file = placed("residual", float16=False)
    names = [node.name for node in graph.nodes]
    assert {"stem", "sum", "sum2", "logits"} < set(release(file, tmp_path / "out.onnx", nodes=names))
    model = onnx.load(tmp_path / "out.onnx")
    assert pairs(model) == []
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    float_logits = evaluate(graph.model, frames[0], ["logits"])["logits"]
    logits = evaluate(model, frames[0], ["logits"])["logits"]
    assert np.abs(logits - float_logits).max() < 0.03 * np.abs(float_logits).max()  # rounded weights, float activations


def test_nothing_to_release_writes_nothing(placed: Any, tmp_path: Path) -> None:
    _, _, file = placed("residual", float16=True)
    assert release(file, tmp_path / "out.onnx", nodes=["labels", "stem_relu", "nowhere", "skip"]) == []
    assert not (tmp_path / "out.onnx").exists()


def test_released_layers_of_our_exports_have_the_titles_of_float_layers(student: Any, tmp_path: Path) -> None:
    titles = graphs.load(str(student.onnx.file("fp32.onnx"))).titles
    file = student.int8.file("int8_tensorrt.onnx")
    int8 = {
        node.name for node in onnx.load(file).graph.node if node.op_type == "Conv" and node.input[1].endswith("_dq")
    }
    assert len(int8) > 20
    assert release(file, tmp_path / "out.onnx", nodes=int8) == sorted(titles[name] for name in int8)
