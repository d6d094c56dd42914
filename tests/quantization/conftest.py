"""Small deploy graphs, built by hand: one for each pattern that placement must handle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.quantization import calibration, half_limits, tensorrt
from pipeline.quantization import graph as graphs
from pipeline.quantization.ranges import choose_all

SIZE = 16  # height and width of the frames
CLASSES = 16


class Net:
    """Collects nodes, each named like its output, between the tensors ``x`` (3 channels) and ``logits``."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, npt.NDArray[Any]] = {}
        self.rng = np.random.default_rng(0)
        self.normaliser = False  # preprocessing as Mul and Add, or as the 1x1 convolution of our exports

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def weight(self, name: str, *shape: int) -> str:
        self.weights[name] = (0.3 * self.rng.standard_normal(shape)).astype(np.float32)
        return name

    def conv(self, x: str, y: str, cin: int, cout: int, *, kernel: int = 3, **attributes: Any) -> str:
        w = self.weight(f"{y}.w", cout, cin // attributes.get("group", 1), kernel, kernel)
        pads = [kernel // 2] * 4
        return self.add("Conv", [x, w, self.weight(f"{y}.b", cout)], y, pads=pads, **attributes)

    def constant(self, name: str, value: Any) -> str:
        self.weights[name] = np.asarray(value)
        return name

    def model(self) -> onnx.ModelProto:
        """With the preprocessing before it (frames -> x) and upsampling and argmax after it (logits -> labels)."""
        body, self.nodes = self.nodes, []
        scale, shift = np.float32([1 / 64, 1 / 50, 1 / 40]), np.float32([-2.0, -1.5, -2.5])
        self.add("Cast", ["frames"], "pixels", to=TensorProto.FLOAT)
        self.add("Transpose", ["pixels"], "planes", perm=[0, 3, 1, 2])
        if self.normaliser:
            weight = self.constant("normalise.weight", np.diag(scale)[:, ::-1, None, None].copy())
            self.add("Conv", ["planes", weight, self.constant("normalise.bias", shift)], "x")
        else:
            self.add("Mul", ["planes", self.constant("scale", scale.reshape(1, 3, 1, 1))], "scaled")
            self.add("Add", ["scaled", self.constant("shift", shift.reshape(1, 3, 1, 1))], "x")
        self.nodes += body
        self.constant("size", np.int64([1, CLASSES, SIZE, SIZE]))
        self.add("Resize", ["logits", "", "", "size"], "up", mode="linear")
        self.add("ArgMax", ["up"], "ids", axis=1, keepdims=0)
        self.add("Cast", ["ids"], "labels", to=TensorProto.UINT8)
        graph = helper.make_graph(
            self.nodes,
            "deploy",
            [helper.make_tensor_value_info("frames", TensorProto.UINT8, [1, SIZE, SIZE, 3])],
            [helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, SIZE, SIZE])],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


def one_conv(net: Net) -> None:
    net.conv("x", "logits", 3, CLASSES)


def residual(net: Net) -> None:
    net.add("Relu", [net.conv("x", "stem", 3, 8)], "skip")
    net.add("Relu", [net.conv("skip", "first", 8, 8)], "first_relu")
    net.add("Add", [net.conv("first_relu", "second", 8, 8), "skip"], "sum")
    net.add("Relu", ["sum"], "sum_relu")
    net.add("Relu", [net.conv("sum_relu", "third", 8, 8)], "third_relu")
    net.add("Add", ["sum_relu", net.conv("third_relu", "fourth", 8, 8)], "sum2")  # the skip comes first here
    net.conv("sum2", "logits", 8, CLASSES, kernel=1)


def projection(net: Net) -> None:
    net.add("Relu", [net.conv("x", "stem", 3, 8)], "stem_relu")
    net.add("Relu", [net.conv("stem_relu", "first", 8, 8)], "first_relu")
    net.conv("first_relu", "main", 8, 8)
    net.conv("stem_relu", "side", 8, 8, kernel=1)
    net.add("Add", ["side", "main"], "sum")
    net.conv("sum", "logits", 8, CLASSES, kernel=1)


def concat(net: Net) -> None:
    net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
    net.add("Relu", [net.conv("x", "b", 3, 8, kernel=1)], "b_relu")
    net.add("Concat", ["a_relu", "b_relu"], "both", axis=1)
    net.conv("both", "logits", 16, CLASSES, kernel=1)


def depthwise(net: Net) -> None:
    net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
    net.add("Relu", [net.conv("a_relu", "deep", 8, 8, group=8)], "deep_relu")
    net.conv("deep_relu", "logits", 8, CLASSES, kernel=1)


def clipped(net: Net) -> None:
    """ReLU6 and a factor, whose constants have no dimension."""
    limits = [net.constant("lowest", np.float32(0)), net.constant("highest", np.float32(6))]
    net.add("Clip", [net.conv("x", "a", 3, 8), *limits], "a_clip")
    net.add("Mul", ["a_clip", net.constant("factor", np.float32(0.5))], "half")
    net.conv("half", "logits", 8, CLASSES, kernel=1)


def squeeze(net: Net, *, mean: bool = False) -> None:
    net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
    if mean:
        net.add("ReduceMean", ["a_relu", net.constant("axes", np.int64([2, 3]))], "pooled", keepdims=1)
    else:
        net.add("GlobalAveragePool", ["a_relu"], "pooled")
    net.add("Sigmoid", [net.conv("pooled", "gate", 8, 8, kernel=1)], "gate_sigmoid")
    net.add("Mul", ["a_relu", "gate_sigmoid"], "gated")
    net.conv("gated", "logits", 8, CLASSES, kernel=1)


def upsampled(net: Net) -> None:
    net.add("Relu", [net.conv("x", "a", 3, 8, strides=[2, 2])], "a_relu")
    net.add("Resize", ["a_relu", "", net.constant("twice", np.float32([1, 1, 2, 2]))], "bigger", mode="linear")
    net.add("Relu", [net.conv("bigger", "b", 8, 8)], "b_relu")
    net.conv("b_relu", "logits", 8, CLASSES, kernel=1)


def other_layers(net: Net) -> None:
    """ConvTranspose, Gemm with and without transB, MatMul: weights with their output channels on different axes."""
    net.add("Relu", [net.conv("x", "a", 3, 8, strides=[2, 2])], "a_relu")
    net.add("ConvTranspose", ["a_relu", net.weight("t.w", 8, 16, 2, 2)], "t", strides=[2, 2])
    net.add("Flatten", [net.add("MaxPool", ["t"], "pooled", kernel_shape=[SIZE, SIZE])], "flat")
    net.add("Gemm", ["flat", net.weight("g.w", 17, 16), net.weight("g.b", 17)], "g", transB=1)
    net.add("Gemm", ["g", net.weight("h.w", 17, 18), net.weight("h.b", 18)], "h")
    net.add("MatMul", ["h", net.weight("m.w", 18, 16)], "m")
    net.add("Reshape", ["m", net.constant("column", np.int64([1, 16, 1, 1]))], "gate")
    net.add("Mul", ["t", "gate"], "gated")
    net.conv("gated", "logits", 16, CLASSES, kernel=1)


def pooled(net: Net) -> None:
    """Adaptive pooling as two matrix products, as PSPNet has it: 16 x 16 -> 3 x 3."""
    net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
    matrix = np.zeros((3, SIZE), np.float32)
    for row, (start, end) in enumerate([(0, 6), (5, 11), (10, 16)]):
        matrix[row, start:end] = 1 / (end - start)
    net.add("MatMul", [net.constant("rows", matrix), "a_relu"], "by_rows")
    net.add("MatMul", ["by_rows", net.constant("columns", matrix.T.copy())], "bins")
    net.add("Relu", [net.conv("bins", "b", 8, 8, kernel=1)], "b_relu")
    net.add("Resize", ["b_relu", "", "", net.constant("back", np.int64([1, 8, SIZE, SIZE]))], "bigger", mode="linear")
    net.add("Concat", ["bigger", "a_relu"], "both", axis=1)
    net.conv("both", "logits", 16, CLASSES, kernel=1)


def normalised(net: Net) -> None:
    net.normaliser = True
    depthwise(net)


def normalised_twice(net: Net) -> None:
    """Two layers read the normalised frame: it cannot be folded into one of them."""
    net.normaliser = True
    net.conv("x", "a", 3, 8)
    net.conv("x", "b", 3, 8)
    net.add("Add", ["a", "b"], "sum")
    net.conv("sum", "logits", 8, CLASSES)


PATTERNS: dict[str, Callable[[Net], None]] = {
    "one_conv": one_conv,
    "residual": residual,
    "projection": projection,
    "concat": concat,
    "depthwise": depthwise,
    "clipped": clipped,
    "squeeze": squeeze,
    "squeeze_mean": lambda net: squeeze(net, mean=True),
    "upsampled": upsampled,
    "other_layers": other_layers,
    "pooled": pooled,
    "normalised": normalised,
    "normalised_twice": normalised_twice,
}


@pytest.fixture(scope="session")
def make() -> Callable[..., onnx.ModelProto]:
    """``make(name)`` builds a pattern; ``make(None, fill)`` builds what ``fill(net)`` adds."""

    def build(name: str | None, fill: Callable[[Net], None] | None = None) -> onnx.ModelProto:
        net = Net()
        (PATTERNS[name] if name else fill)(net)  # type: ignore[misc]
        return net.model()

    return build


@pytest.fixture(scope="session")
def frames() -> list[npt.NDArray[np.uint8]]:
    return list(np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8))


@pytest.fixture
def calibrated(make: Any, frames: Any, tmp_path: Path) -> Callable[[str], tuple[Path, Any]]:
    """``calibrated(name)`` -> (file of the float graph, minmax ranges)."""

    def build(name: str) -> tuple[Path, Any]:
        file = tmp_path / f"{name}.onnx"
        onnx.save(make(name), file)
        statistics = calibration.collect(file, frames)
        return file, choose_all(statistics.histograms, method="minmax", percentile=99.0)

    return build


@pytest.fixture(scope="session")
def evaluate() -> Callable[..., dict[str, Any]]:
    """Values of named tensors of a model in ONNX Runtime, without optimisations."""

    def run(model: onnx.ModelProto, frame: Any, names: list[str]) -> dict[str, Any]:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        del copy.graph.output[:]
        copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(names, {"frames": frame[None]}), strict=True))

    return run


@pytest.fixture
def placed(make: Any, frames: Any, tmp_path: Path, calibrated: Any) -> Callable[..., Any]:
    """``placed(fill)`` -> (float graph, INT8 graph for TensorRT, the same to be run on a CPU)."""

    def build(fill: Callable[[Net], None]) -> tuple[onnx.ModelProto, onnx.ModelProto, onnx.ModelProto]:
        model = make(None, fill)
        onnx.save(model, tmp_path / "float.onnx")
        graph = graphs.load(str(tmp_path / "float.onnx"))
        found = calibration.collect(tmp_path / "float.onnx", frames)
        ranges = choose_all(found.histograms, method="minmax", percentile=99.0)
        kept = half_limits.float32_nodes(model, half_limits.measure(model, frames))
        options = {"float_nodes": {"logits"}, "float32": kept}
        return model, tensorrt.place(graph, ranges, **options), tensorrt.simulate(graph, ranges, **options)

    return build
