"""Every kind of output that segmentation networks have: the deploy graph computes the labels of the file."""

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

from pipeline import artifact, verbs
from pipeline.errors import UserError
from pipeline.imported import parity
from pipeline.imported.description import Description
from pipeline.imported.onnx_artifact import import_network
from pipeline.quantization import cpu, tensorrt
from pipeline.quantization import graph as graphs
from tests.imported.conftest import deep, ending

PARAMS = Path(__file__).parents[2] / "params.yaml"
TWO = {"classes": ["background", "road"], "palette": [[0, 0, 0], [128, 64, 128]]}
BITS = TensorProto.BOOL, TensorProto.UINT8, TensorProto.INT32, TensorProto.FLOAT
node = helper.make_node


def require_labels(
    description: Description, frames: Any, expected: Callable[[npt.NDArray[np.float32]], Any], *, share: float = 0.999
) -> dict[str, Any]:
    """Import the network, and compare both graphs with labels from ``deep``; place INT8 graphs. Returns meta.json."""
    out = description.file.parent / "onnx"
    import_network(description, out, frames=lambda size: frames)
    converted = artifact.load(out, kind="onnx")
    for precision, needed in (("fp32", share), ("fp16", 0.98)):
        session = onnxruntime.InferenceSession(
            str(converted.file(f"{precision}.onnx")), providers=["CPUExecutionProvider"]
        )
        for frame in frames:
            right = expected(deep(description.model, frame))
            assert 0.02 < (right == 1).mean() < 0.98
            got = session.run(None, {"frames": frame[None]})[0]
            assert got.shape == (1, *right.shape) and got.dtype == np.uint8
            assert (got[0] == right).mean() >= needed, precision
    graph = graphs.load(str(converted.file("fp32.onnx")))
    ranges = dict.fromkeys(graph.float_activations(), (-4.0, 4.0))
    for placed in (cpu.place(graph, ranges), tensorrt.place(graph, ranges)):
        onnx.checker.check_model(placed, full_check=True)
    meta: dict[str, Any] = converted.meta
    return meta


SIGMOID = [node("Sigmoid", ["deep"], ["scores"])]
#: A sigmoid as some converters write it: 1 / (1 + exp(-x)).
WRITTEN = [
    node("Neg", ["deep"], ["m"]), node("Exp", ["m"], ["e"]), node("Add", ["e", "one"], ["d"]),
    node("Div", ["one", "d"], ["scores"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "keys", "raw", "threshold"),
    [
        ([node("Identity", ["deep"], ["scores"])], {}, 0.0, 0.0),
        ([node("Identity", ["deep"], ["scores"])], {"threshold": 0.25}, 0.25, 0.25),
        (SIGMOID, {}, 0.0, 0.5),
        (SIGMOID, {"threshold": 0.6}, float(np.log(0.6 / 0.4)), 0.6),
        (WRITTEN, {}, 0.0, 0.5),
        ([node("Sigmoid", ["deep"], ["s"]), node("Squeeze", ["s"], ["scores"])], {}, 0.0, 0.5),
        ([node("Sigmoid", ["deep"], ["s"]), node("Transpose", ["s"], ["scores"], perm=[0, 2, 3, 1])], {}, 0.0, 0.5),
    ],
)
def test_one_channel_separates_two_classes(
    single: Any, described: Any, frames: Any, nodes: Any, keys: Any, raw: float, threshold: float
) -> None:
    model = ending(single(opset=13), nodes, TensorProto.FLOAT, one=np.float32(1))
    meta = require_labels(described(model, **TWO, **keys), frames, lambda logits: logits[0] > raw)
    assert meta["parity"]["threshold"] == meta["model"]["options"]["threshold"] == threshold
    assert meta["output"]["shape"] == [1, 48, 64]


def test_one_channel_is_enlarged_before_the_threshold(single: Any, described: Any, frames: Any) -> None:
    description = described(ending(single(stride=2), SIGMOID, TensorProto.FLOAT), **TWO)

    def large(logits: npt.NDArray[np.float32]) -> Any:
        small = 1 / (1 + np.exp(-logits[0].astype(np.float64)))
        low = [(side[0] * 3 + side[1]) / 4 for side in ((small[:, :-1], small[:, 1:]), (small[:, 1:], small[:, :-1]))]
        wide = np.empty((small.shape[0], small.shape[1] * 2))
        wide[:, 0], wide[:, -1], wide[:, 1:-1:2], wide[:, 2:-1:2] = small[:, 0], small[:, -1], low[0], low[1]
        high = [(wide[:-1] * 3 + wide[1:]) / 4, (wide[1:] * 3 + wide[:-1]) / 4]
        whole = np.empty((wide.shape[0] * 2, wide.shape[1]))
        whole[0], whole[-1], whole[1:-1:2], whole[2:-1:2] = wide[0], wide[-1], high[0], high[1]
        return whole > 0.5

    require_labels(description, frames, large)


def test_one_channel_of_neither_probabilities_nor_scores(single: Any, described: Any, frames: Any) -> None:
    nodes = [
        node("Sigmoid", ["deep"], ["s"]),
        node("Mul", ["s", "most"], ["alpha"]),
        node("Cast", ["alpha"], ["bytes"], to=TensorProto.UINT8),
    ]
    for kind, last in ((TensorProto.FLOAT, "alpha"), (TensorProto.UINT8, "bytes")):
        model = ending(single(), [*nodes, node("Identity", [last], ["scores"])], kind, most=np.float32(255))
        if kind == TensorProto.FLOAT:
            with pytest.raises(
                UserError, match=r"values from .* to .*: neither probabilities .* nor scores .*`threshold: .*'road'"
            ):
                require_labels(described(model, **TWO), frames, lambda logits: logits[0] > 0)
        require_labels(described(model, **TWO, threshold=127), frames, lambda logits: logits[0] > 0, share=0.99)


def test_scores_cast_to_whole_numbers_may_be_one_apart() -> None:
    """12.99999 and 13.00001 are 12 and 13 after a cast: a far larger difference than rounding causes in floats."""
    got, exact = np.float32([[12, 90], [200, 0]]), np.float32([[13, 90], [200, 0]])
    assert parity._difference(got, exact, step=1.0) == 0.0
    assert parity._difference(got, exact, step=0.0) > parity.LOGITS_TOLERANCE
    assert parity._difference(got + 2, exact, step=1.0) > parity.LOGITS_TOLERANCE


def test_one_channel_and_three_classes(make: Any, single: Any, described: Any, frames: Any) -> None:
    with pytest.raises(UserError, match=r"one channel, which separates two classes, but the description names 3"):
        require_labels(described(single()), frames, np.argmax)
    with pytest.raises(UserError, match=r"one channel per class, where the largest value wins; leave `threshold` out"):
        require_labels(described(make(), threshold=0.5), frames, np.argmax)


def test_probabilities_are_no_label_map(single: Any, described: Any, frames: Any) -> None:
    description = described(ending(single(), SIGMOID, TensorProto.FLOAT), output="labels", **TWO)
    with pytest.raises(UserError, match=r"no whole numbers \(0\.\d+, .*write `output: logits`, and `threshold"):
        require_labels(description, frames, np.argmax)
    assert not (description.file.parent / "onnx").exists()


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("axes", [[], [1], [0, 1]])
def test_maps_of_ids_in_any_type_and_shape(
    single: Any, described: Any, frames: Any, kind: int, axes: list[int]
) -> None:
    nodes = [node("Greater", ["deep", "zero"], ["above"]), node("Cast", ["above"], ["whole"], to=kind)]
    nodes.append(node("Squeeze", ["whole", "axes"], ["scores"]) if axes else node("Identity", ["whole"], ["scores"]))
    model = ending(single(opset=13), nodes, kind, zero=np.float32(0), axes=np.array(axes, np.int64))
    description = described(model, output="labels", **TWO)
    require_labels(description, frames, lambda logits: logits[0] > 0)
    inside = onnx.shape_inference.infer_shapes(onnx.load(description.file.parent / "onnx/fp32.onnx")).graph.value_info
    assert TensorProto.UINT8 not in {
        value.type.tensor_type.elem_type for value in inside
    }  # TensorRT supports none inside


def scaled_mask(model: onnx.ModelProto, kind: int, *, value: float) -> onnx.ModelProto:
    """A map of 0 and ``value``."""
    nodes = [
        node("Greater", ["deep", "zero"], ["above"]), node("Cast", ["above"], ["one"], to=TensorProto.FLOAT),
        node("Mul", ["one", "value"], ["mask"]), node("Cast", ["mask"], ["scores"], to=kind),
    ]  # fmt: skip
    return ending(model, nodes, kind, zero=np.float32(0), value=np.float32(value))


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT64, TensorProto.FLOAT])
def test_values_of_a_map_are_assigned_to_classes(single: Any, described: Any, frames: Any, kind: int) -> None:
    model = scaled_mask(single(), kind, value=255)
    with pytest.raises(UserError, match=r"its output has ids 255, which are no class; .* `ids: {road: \[255\]}`"):
        require_labels(described(model, output="labels", **TWO), frames, lambda logits: logits[0] > 0)
    meta = require_labels(
        described(model, output="labels", ids={"road": [255]}, **TWO), frames, lambda logits: logits[0] > 0
    )
    assert meta["model"]["options"]["ids"] == {"road": [255]}
    assert meta["parity"]["class_share"]["road"] > 0.02
    turned = described(model, output="labels", ids={"road": [0, 7], "background": [255]}, **TWO)
    require_labels(turned, frames, lambda logits: logits[0] <= 0)


def test_ids_that_begin_at_one(make: Any, described: Any, frames: Any) -> None:
    nodes = [node("ArgMax", ["deep"], ["zero_based"], axis=1), node("Add", ["zero_based", "one"], ["scores"])]
    model = ending(make(), nodes, TensorProto.INT64, one=np.array(1))
    with pytest.raises(
        UserError, match=r"its output has ids 3, which are no class; .* `ids: {sky: \[...\], road: \[...\]}`"
    ):
        require_labels(described(model, output="labels"), frames, np.argmax)
    ids = {"sky": [1], "road": [2], "car": [3]}
    require_labels(described(model, output="labels", ids=ids), frames, lambda logits: logits.argmax(axis=0))


def test_a_value_that_no_class_has_is_ignored_on_the_device(single: Any, described: Any, frames: Any) -> None:
    model = scaled_mask(single(), TensorProto.INT32, value=255)
    description = described(model, output="labels", ids={"road": [255]}, **TWO)
    require_labels(description, frames, lambda logits: logits[0] > 0)
    graph = onnx.load(description.file.parent / "onnx/fp32.onnx")
    (value,) = [tensor for tensor in graph.graph.initializer if tensor.name == "network.net.value"]
    for strange in (254.0, 256.0, 70000.0, -1.0, -300.0):
        value.CopyFrom(numpy_helper.from_array(np.float32(strange), value.name))
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        assert np.unique(session.run(None, {"frames": frames[0][None]})[0]).tolist() == [0, 255]


@pytest.mark.parametrize(
    ("nodes", "keys"),
    [
        ([node("Squeeze", ["deep", "first"], ["scores"])], {}),
        ([node("Transpose", ["deep"], ["scores"], perm=[0, 2, 3, 1])], {}),
        ([node("Transpose", ["deep"], ["scores"], perm=[0, 2, 3, 1])], {"output_layout": "NHWC"}),
        ([node("Transpose", ["deep"], ["t"], perm=[0, 2, 3, 1]), node("Squeeze", ["t", "first"], ["scores"])], {}),
        ([node("Softmax", ["deep"], ["scores"], axis=1)], {}),
        ([node("LogSoftmax", ["deep"], ["scores"], axis=1)], {}),
        ([node("Unsqueeze", ["deep", "first"], ["scores"])], {}),
    ],
)
def test_logits_in_any_order_with_and_without_batch(
    make: Any, described: Any, frames: Any, nodes: Any, keys: Any
) -> None:
    model = ending(make(opset=13), nodes, TensorProto.FLOAT, first=np.array([0], np.int64))
    require_labels(described(model, **keys), frames, lambda logits: logits.argmax(axis=0))


def test_a_wrong_output_layout_is_refused(make: Any, described: Any, frames: Any) -> None:
    with pytest.raises(UserError, match=r"do not have the aspect ratio of the image, 48x64; correct `output_layout`"):
        require_labels(described(make(), output_layout="NHWC"), frames, np.argmax)


def test_flat_logits_are_refused(make: Any, described: Any, frames: Any) -> None:
    nodes = [node("Transpose", ["deep"], ["t"], perm=[0, 2, 3, 1]), node("Reshape", ["t", "flat"], ["scores"])]
    model = ending(make(classes=2), nodes, TensorProto.FLOAT, flat=np.array([1, -1, 2]))
    with pytest.raises(UserError, match=r"is float32 1x3072x2; its height and width do not have the aspect"):
        require_labels(described(model, **TWO), frames, np.argmax)


def test_a_file_that_computes_nan_is_named(make: Any, described: Any, frames: Any) -> None:
    description = described(ending(make(), [node("Log", ["deep"], ["scores"])], TensorProto.FLOAT))
    broken = int((deep(description.model, frames[0]) < 0).sum())
    with pytest.raises(UserError) as caught:
        require_labels(description, frames, np.argmax)
    message = str(caught.value)
    assert f"the file itself computes NaN, before any conversion: {broken} of 9216 values" in message
    assert "output 'scores' on frame 1 of 4" in message and "opset" not in message


def test_a_map_without_a_shape_in_the_file(make: Any, described: Any, frames: Any) -> None:
    model = make()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    require_labels(described(model), frames, lambda logits: logits.argmax(axis=0))


def test_a_sequence_is_no_map(make: Any, described: Any, frames: Any) -> None:
    model = ending(make(), [node("SequenceConstruct", ["deep"], ["scores"])], TensorProto.FLOAT)
    kind = helper.make_tensor_sequence_value_info("scores", TensorProto.FLOAT, None)
    model.graph.output[0].CopyFrom(kind)
    with pytest.raises(UserError, match=r"output 'scores' is a sequence; needed: one tensor; export the network again"):
        require_labels(described(model), frames, np.argmax)


def test_the_verb_prints_the_threshold_and_warns_of_one_class_everywhere(
    single: Any, described: Any, dataset: Path, tmp_path: Path, capsys: Any
) -> None:
    for threshold, warns in ((None, False), (1e6, True)):
        described(single(), threshold=threshold, **TWO)
        places = [tmp_path / "own.yaml", "--dataset", dataset, "--out", tmp_path / "out"]
        assert verbs.run("import", [*map(str, places), "--until", "onnx", "--params", str(PARAMS)]) == 0
        out, error = capsys.readouterr()
        assert f"road is where its one channel is above {threshold or 0:g}" in out
        assert (
            "warning: nearly everything is background; if the frames contain more classes, check mean" in error
        ) == warns
