"""The placement rules of pipeline/quantization/tensorrt.py, checked on the files that it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from pipeline.quantization import graph as graphs
from pipeline.quantization import tensorrt
from pipeline.quantization.graph import WEIGHTED

PATTERNS = [
    "one_conv", "residual", "projection", "concat", "depthwise", "clipped", "squeeze", "squeeze_mean", "upsampled",
    "other_layers", "pooled", "normalised",
]  # fmt: skip
UNTOUCHED = ("pixels", "planes", "scaled", "x", "up", "ids", "labels")


class Written:
    """A written file with look-ups."""

    def __init__(self, file: Path) -> None:
        self.model = onnx.load(file)
        self.nodes = {node.name: node for node in self.model.graph.node}
        self.constants = {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer}
        self.producers = {name: node for node in self.model.graph.node for name in node.output}

    def kind(self, tensor: str) -> str:
        """Operator that computes a tensor; empty for inputs and constants."""
        return str(self.producers[tensor].op_type) if tensor in self.producers else ""

    def of(self, *operators: str) -> list[onnx.NodeProto]:
        return [node for node in self.model.graph.node if node.op_type in operators]

    def is_quantized(self, node: onnx.NodeProto) -> list[bool]:
        return [self.kind(name) == "DequantizeLinear" for name in node.input]


@pytest.fixture
def write(
    calibrated: Callable[[str], tuple[Path, Any]], write_int8: Callable[..., None], tmp_path: Path
) -> Callable[..., Written]:
    def quantized(name: str, *, float_head: bool = True, float16: bool = True) -> Written:
        source, ranges = calibrated(name)
        write_int8(tensorrt, source, tmp_path / "int8.onnx", ranges, float_head=float_head, float16=float16)
        return Written(tmp_path / "int8.onnx")

    return quantized


@pytest.mark.parametrize("float_head", [True, False])
@pytest.mark.parametrize("name", PATTERNS)
def test_everywhere_symmetric_int8(write: Callable[..., Written], name: str, float_head: bool) -> None:
    file = write(name, float_head=float_head)
    pairs = file.of("QuantizeLinear", "DequantizeLinear")
    assert bool(pairs) == (name != "one_conv" or not float_head)
    for node in pairs:
        scale, zero = file.constants[node.input[1]], file.constants[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
        assert zero.shape == scale.shape
        assert (scale > 0).all()
        if node.input[0] in file.constants:  # a weight
            assert file.constants[node.input[0]].dtype == np.int8
            assert scale.ndim == 1
        else:  # an activation
            assert scale.ndim == 0


@pytest.mark.parametrize("name", PATTERNS)
def test_inputs_of_weighted_layers_only(write: Callable[..., Written], name: str) -> None:
    file = write(name)
    for node in file.of(*WEIGHTED):
        in_float = (
            "logits",
            "by_rows",
            "bins",
            "x",
            "gate",
        )  # classifier, pooling matrices, normaliser, pooling branch
        expected = [False, False] if node.name in in_float else [True, True]
        assert file.is_quantized(node)[:2] == expected, node.name
        assert file.is_quantized(node)[2:] == [False] * (len(node.input) - 2)  # the bias stays in float
    readers = [node for node in file.model.graph.node if any(file.is_quantized(node))]
    assert {node.op_type for node in readers} <= {*WEIGHTED, "Add"}
    for node in file.of("Relu", "Sigmoid"):
        assert file.kind(node.input[0]) in ("Conv", "ConvTranspose", "Add"), "Q/DQ before an activation function"


@pytest.mark.parametrize("name", PATTERNS)
def test_preprocessing_and_upsampling_do_not_change(
    write: Callable[..., Written], make: Callable[..., onnx.ModelProto], name: str
) -> None:
    file = write(name, float_head=False)
    before = {node.name: node for node in make(name).graph.node}
    for node in before.keys() & set(UNTOUCHED):
        assert list(file.nodes[node].input) == list(before[node].input)
        assert file.nodes[node].op_type == before[node].op_type


@pytest.mark.parametrize(
    ("name", "add", "skip"),
    [("residual", "sum", "skip"), ("residual", "sum2", "sum_relu"), ("projection", "sum", "side")],
)
def test_only_the_skip_of_a_residual_add_is_quantized(
    write: Callable[..., Written], name: str, add: str, skip: str
) -> None:
    file = write(name)
    node = file.nodes[add]
    assert sorted(file.is_quantized(node)) == [False, True]
    inputs = {file.is_quantized(node)[index]: node.input[index] for index in (0, 1)}
    quantize = file.producers[file.producers[inputs[True]].input[0]]
    assert (quantize.op_type, quantize.input[0]) == ("QuantizeLinear", skip)
    assert file.kind(inputs[False]) == "Conv"


def test_an_add_without_a_convolution_is_not_quantised(
    write: Callable[..., Written],
    make: Callable[..., onnx.ModelProto],
    calibrated: Any,
    write_int8: Callable[..., None],
    tmp_path: Path,
) -> None:
    def fill(net: Any) -> None:
        net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
        net.add("Relu", [net.conv("a_relu", "b", 8, 8)], "b_relu")
        net.add("Add", ["a_relu", "b_relu"], "sum")
        net.add("Add", [net.conv("sum", "c", 8, 8), net.weight("offset", 1, 8, 1, 1)], "moved")
        net.conv("moved", "logits", 8, 5)

    onnx.save(make(None, fill), tmp_path / "adds.onnx")
    ranges = dict.fromkeys(("x", "a", "a_relu", "b", "b_relu", "sum", "c", "moved", "logits"), (-1.0, 1.0))
    write_int8(tensorrt, tmp_path / "adds.onnx", tmp_path / "int8.onnx", ranges, float_head=True)
    file = Written(tmp_path / "int8.onnx")
    assert file.is_quantized(file.nodes["sum"]) == file.is_quantized(file.nodes["moved"]) == [False, False]


def test_layers_that_share_an_input_share_the_pair(write: Callable[..., Written]) -> None:
    file = write("concat")
    quantizers = [node for node in file.of("QuantizeLinear") if node.input[0] == "x"]
    assert len(quantizers) == 1
    assert file.nodes["a"].input[0] == file.nodes["b"].input[0]
    assert not any(file.is_quantized(file.nodes["both"]))


def test_inputs_of_a_concatenation_have_one_scale(
    make: Callable[..., onnx.ModelProto], write_int8: Callable[..., None], tmp_path: Path
) -> None:
    """One concatenation reads a and b, another reads b and c: all five tensors have the widest range."""

    def fill(net: Any) -> None:
        for name in "abc":
            net.add("Relu", [net.conv("x", name, 3, 8)], f"{name}_relu")
        net.add("Concat", ["a_relu", "b_relu"], "ab", axis=1)
        net.add("Concat", ["b_relu", "c_relu"], "bc", axis=1)
        for name, source in (("p", "ab"), ("q", "bc")):
            net.conv(source, name, 16, 8)
        for name in "abc":
            net.conv(f"{name}_relu", f"{name}2", 8, 8)
        net.add("Add", ["p", "q"], "sum")
        net.conv("sum", "logits", 8, 16)

    onnx.save(make(None, fill), tmp_path / "concats.onnx")
    ranges = dict.fromkeys(("x", *"abcpq", "a2", "b2", "c2", "sum", "logits"), (-1.0, 1.0))
    ranges |= {"a_relu": (0.0, 1.0), "b_relu": (0.0, 2.0), "c_relu": (-0.5, 0.5), "ab": (0.0, 2.0), "bc": (0.0, 6.35)}
    write_int8(tensorrt, tmp_path / "concats.onnx", tmp_path / "int8.onnx", ranges, float_head=True, float16=False)
    file = Written(tmp_path / "int8.onnx")
    scales = {
        node.input[0]: float(file.constants[node.input[1]])
        for node in file.of("QuantizeLinear")
        if node.input[0] not in ("x", "sum")
    }
    assert {name for name in scales if name.endswith("_relu") or name in ("ab", "bc")} == {
        "ab", "bc", "a_relu", "b_relu", "c_relu",
    }  # fmt: skip
    shared = [scales[name] for name in ("ab", "bc", "a_relu", "b_relu", "c_relu")]
    assert shared == pytest.approx([6.35 / 127] * 5)


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "kernel", "group", "int8"),
    [
        (16, 16, (3, 3), 1, True),
        (16, 24, (1, 1), 1, True),
        (8, 16, (3, 3), 1, True),
        (8, 8, (1, 1), 1, True),
        (8, 16, (1, 3), 1, False),  # few channels and no square kernel
        (12, 16, (3, 3), 1, False),  # few channels, no multiple of 8
        (16, 5, (3, 3), 1, False),
        (16, 17, (3, 3), 1, True),
        (16, 16, (3, 3), 16, True),
        (16, 16, (1, 1), 16, False),  # grouped with a small kernel
        (12, 12, (3, 3), 12, False),
    ],
)
def test_layers_without_a_good_kernel_stay_in_float(
    make: Callable[..., onnx.ModelProto],
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int],
    group: int,
    int8: bool,
) -> None:
    def fill(net: Any) -> None:
        net.conv("x", "first", 3, in_channels)
        weight = net.weight("w", out_channels, in_channels // group, *kernel)
        net.add("Conv", ["first", weight], "second", kernel_shape=kernel, group=group, auto_pad="SAME_UPPER")
        net.conv("second", "logits", out_channels, 16)

    graph = graphs.Graph(make(None, fill))
    first, second, _ = graph.layers
    assert tensorrt.has_kernel(graph, second) == int8
    assert tensorrt.has_kernel(graph, first) == (
        in_channels % 8 == 0 or in_channels >= 16
    )  # its three input channels do not count


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("squeeze", {"pooled", "gate", "gate_sigmoid"}),
        ("squeeze_mean", {"pooled", "gate", "gate_sigmoid"}),
        ("residual", set()),
        ("pooled", set()),
    ],
)
def test_the_pooling_branch_is_detected(make: Callable[..., onnx.ModelProto], name: str, expected: set[str]) -> None:
    model = onnx.shape_inference.infer_shapes(make(name))
    assert graphs.Graph(model).pooled == expected


@pytest.mark.parametrize("float_nodes", [{"first"}, {"sum", "third"}])
def test_named_nodes_stay_in_float(calibrated: Any, float_nodes: set[str]) -> None:
    source, ranges = calibrated("residual")
    graph = graphs.load(str(source))
    before = graph.model.SerializeToString()
    model = tensorrt.place(graph, ranges, float_nodes=float_nodes)
    assert graph.model.SerializeToString() == before
    operators = {name: node.op_type for node in model.graph.node for name in node.output}
    reads = {node.name: [operators.get(name) == "DequantizeLinear" for name in node.input] for node in model.graph.node}
    for name in ("stem", "first", "second", "third", "fourth", "sum", "sum2"):
        assert any(reads[name]) == (name not in float_nodes), name


@pytest.mark.parametrize("float_head", [True, False])
def test_the_classifier_is_float_when_asked(write: Callable[..., Written], float_head: bool) -> None:
    file = write("depthwise", float_head=float_head)
    assert file.is_quantized(file.nodes["logits"])[:2] == [not float_head, not float_head]


@pytest.mark.parametrize(
    ("name", "layer", "axis", "channels"),
    [
        ("depthwise", "deep", 0, 8),
        ("other_layers", "a", 0, 8),
        ("other_layers", "t", 1, 16),
        ("other_layers", "g", 0, 17),  # transB
        ("other_layers", "h", 1, 18),
        ("other_layers", "m", 1, 16),
    ],
)
def test_weights_have_one_scale_per_output_channel(
    write: Callable[..., Written], make: Callable[..., onnx.ModelProto], name: str, layer: str, axis: int, channels: int
) -> None:
    file = write(name)
    node = file.producers[file.nodes[layer].input[1]]
    assert {a.name: a.i for a in node.attribute}["axis"] == axis
    scales, values = file.constants[node.input[1]], file.constants[node.input[0]]
    assert scales.shape == (channels,)
    weight = next(numpy_helper.to_array(t) for t in make(name).graph.initializer if t.name == f"{layer}.w")
    others = tuple(index for index in range(weight.ndim) if index != axis)
    np.testing.assert_allclose(scales, np.abs(weight).max(axis=others) / 127, rtol=1e-3)
    assert np.abs(values).max(axis=others).tolist() == [127] * channels
    assert f"{layer}.w" not in file.constants


@pytest.mark.parametrize("float16", [True, False])
@pytest.mark.parametrize("name", PATTERNS)
def test_the_rest_is_float16_and_the_file_is_valid(
    write: Callable[..., Written], make: Callable[..., onnx.ModelProto], frames: Any, name: str, float16: bool
) -> None:
    file = write(name, float16=float16)
    onnx.checker.check_model(file.model, full_check=True)
    assert [(o.domain, o.version) for o in file.model.opset_import] == [("", 20)]
    kept = {node.input[2] for node in file.of("Resize") if len(node.input) > 2}
    floats = {str(v.dtype) for n, v in file.constants.items() if n not in kept and v.dtype.kind == "f"}
    assert floats == {"float16" if float16 else "float32"}
    to = next(a.i for a in file.nodes["pixels"].attribute if a.name == "to")
    assert to == (TensorProto.FLOAT16 if float16 else TensorProto.FLOAT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    cpu = ["CPUExecutionProvider"]
    session, reference = (
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=cpu)
        for model in (file.model, make(name))
    )
    equal = [session.run(None, {"frames": f[None]})[0] == reference.run(None, {"frames": f[None]})[0] for f in frames]
    assert np.mean(equal) > 0.9
    assert session.get_outputs()[0].type == "tensor(uint8)"
