"""The deploy graph of an imported network against its own file and plain NumPy, for every kind of description."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.export.parity import float16_report
from pipeline.imported import deploy, network, parity
from pipeline.imported.description import Description
from pipeline.imported.onnx_artifact import import_network
from pipeline.labels import LabelSpec
from pipeline.quantization import cpu
from pipeline.quantization import graph as graphs

MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)


def bilinear(planes: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """(K, h, w) -> (K, H, W) by the definition: half-pixel centres, repeated edges."""

    def weights(small: int, large: int) -> npt.NDArray[np.float64]:
        matrix = np.zeros((large, small))
        for row in range(large):
            place = min(max((row + 0.5) * small / large - 0.5, 0), small - 1)
            low = min(int(place), small - 2) if small > 1 else 0
            matrix[row, low] += 1 - (place - low)
            matrix[row, min(low + 1, small - 1)] += place - low
        return matrix

    rows, columns = weights(planes.shape[1], size[0]), weights(planes.shape[2], size[1])
    return np.einsum("Hh,khw,Ww->kHW", rows, planes.astype(np.float64), columns)


def reference(
    file: Path, frame: Any, *, layout: str, order: str, output: str, mean: Any = (0, 0, 0), std: Any = (1, 1, 1)
) -> npt.NDArray[Any]:
    """Label map of the unchanged file; pixels are prepared one channel at a time."""
    planes = []
    for channel in range(3):
        pixel = frame[:, :, {"RGB": 2 - channel, "BGR": channel}[order]].astype(np.float64)
        planes.append((pixel / 255 - mean[channel]) / std[channel])
    image = np.stack(planes, axis=-1 if layout == "NHWC" else 0)[None].astype(np.float32)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    result = session.run(None, {session.get_inputs()[0].name: image})[0]
    if output == "labels":
        return result.reshape(result.shape[-2:])
    logits = np.moveaxis(result[0], -1, 0) if layout == "NHWC" else result[0]
    return bilinear(logits, frame.shape[:2]).argmax(axis=0)


def run(file: Path, frame: Any) -> npt.NDArray[Any]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {"frames": frame[None]})[0][0]


def imported(description: Description, frames: Any) -> artifact.Artifact:
    out = description.file.parent / "onnx"
    import_network(description, out, frames=lambda size: frames)
    return artifact.load(out, kind="onnx")


@pytest.mark.parametrize(
    ("layout", "order", "output", "stride"),
    itertools.product(("NCHW", "NHWC"), ("RGB", "BGR"), ("logits", "labels"), (1, 2)),
)
def test_every_kind_of_network_gives_the_labels_of_its_file(
    make: Any, described: Any, frames: Any, layout: str, order: str, output: str, stride: int
) -> None:
    model = make(layout=layout, output=output, stride=stride)
    description = described(model, layout=layout, channel_order=order, output=output, mean=list(MEAN), std=list(STD))
    converted = imported(description, frames)
    for frame in frames:
        expected = reference(description.model, frame, layout=layout, order=order, output=output, mean=MEAN, std=STD)
        assert len(np.unique(expected)) == 3
        labels = run(converted.file("fp32.onnx"), frame)
        assert labels.dtype == np.uint8 and labels.shape == expected.shape
        assert (labels == expected).mean() > 0.999
        assert (run(converted.file("fp16.onnx"), frame) == expected).mean() > 0.98
    assert converted.meta["output"]["shape"] == [1, *expected.shape]


def test_original_ids_of_the_description_are_in_the_artifact_and_the_file(
    make: Any, described: Any, frames: Any
) -> None:
    converted = imported(described(make(), original_ids=[23, 7, 26], original_ignored=0), frames)
    session = onnxruntime.InferenceSession(str(converted.file("fp32.onnx")), providers=["CPUExecutionProvider"])
    inside = LabelSpec.from_meta(json.loads(session.get_modelmeta().custom_metadata_map["segpress"]))
    assert converted.labels == inside
    assert inside.to_original()[[0, 1, 2, 255]].tolist() == [23, 7, 26, 0]


@pytest.mark.parametrize("changes", [{"channel_order": "BGR"}, {"mean": 0.0}, {"std": 1.0}])
def test_another_description_gives_other_labels(make: Any, described: Any, frames: Any, changes: Any) -> None:
    keys = {"mean": list(MEAN), "std": list(STD), "channel_order": "RGB"}
    description = described(make(), **keys)
    expected = [
        reference(description.model, f, layout="NCHW", order="RGB", output="logits", mean=MEAN, std=STD) for f in frames
    ]
    converted = imported(described(None, **{**keys, **changes}), frames)
    agreement = np.mean(
        [(run(converted.file("fp32.onnx"), f) == e).mean() for f, e in zip(frames, expected, strict=True)]
    )
    assert agreement < 0.97


def test_the_facts_of_the_artifact(make: Any, described: Any, frames: Any) -> None:
    description = described(make(heads=2), head="scores", mean=0.5, std=0.5)
    meta = imported(description, frames).meta
    assert meta["classes"] == ["sky", "road", "car"] and meta["input_size"] == [48, 64] and meta["precision"] == "fp32"
    assert meta["model"] == {"name": "onnx", "options": {"file": "model.onnx", "head": "scores"}}
    assert (meta["mean"], meta["std"]) == ([0.5] * 3, [0.5] * 3)
    assert meta["input"] == {"name": "frames", "dtype": "uint8", "layout": "NHWC", "shape": [1, 48, 64, 3]}
    assert meta["parents"] == {"file": artifact.sha256(description.model)}
    assert meta["parity"]["frames"] == 4 and meta["parity"]["agreement"]["fp32"] > 0.999
    assert meta["parity"]["core_max_difference"] < 1e-4
    assert (
        abs(sum(meta["parity"]["class_share"].values()) - 1) < 1e-3 and min(meta["parity"]["class_share"].values()) > 0
    )


def test_the_graph_has_no_superfluous_nodes(make: Any, described: Any, frames: Any) -> None:
    converted = imported(
        described(make(heads=3, layout="NHWC", names=("frames", "labels_")), head="labels_", layout="NHWC"), frames
    )
    model = onnx.load(converted.file("fp32.onnx"))
    onnx.checker.check_model(model, full_check=True)
    operators = [node.op_type for node in model.graph.node]
    # batch normalisation is folded, the other heads are gone, and transposes of NHWC cancel
    assert operators == ["Cast", "Transpose", "Conv", "Conv", "PRelu", "Conv", "ArgMax", "Cast"]
    assert len({node.name for node in model.graph.node}) == len(operators)
    assert not [tensor.name for tensor in model.graph.initializer if "unused" in tensor.name]
    assert [entry.version for entry in model.opset_import] == [18]
    graph = graphs.load(str(converted.file("fp32.onnx")))
    assert graph.normaliser is not None and len(graph.normalised) == 1
    ranges = dict.fromkeys(graph.float_activations(), (-4.0, 4.0))
    placed = cpu.place(graph, ranges)  # the first layer reads the frame's bytes
    assert "normalise.weight" not in {name for node in placed.graph.node for name in node.input}


def test_two_imports_have_the_same_bytes(make: Any, described: Any, frames: Any) -> None:
    description = described(make())
    first = {path.name: path.read_bytes() for path in imported(description, frames).path.iterdir()}
    assert first == {path.name: path.read_bytes() for path in imported(description, frames).path.iterdir()}
    assert str(description.file.parent).encode() not in b"".join(first.values())


@pytest.mark.parametrize("opset", [9, 13, 18, 20, 21])
def test_opsets_from_old_to_new(make: Any, described: Any, frames: Any, opset: int) -> None:
    description = described(make(opset=opset))
    converted = imported(description, frames)
    (version,) = [entry.version for entry in onnx.load(converted.file("fp32.onnx")).opset_import]
    assert version == min(max(opset, 18), 20)
    expected = reference(description.model, frames[0], layout="NCHW", order="RGB", output="logits")
    assert (run(converted.file("fp32.onnx"), frames[0]) == expected).mean() > 0.999


def test_open_sizes_are_fixed_by_the_description(make: Any, described: Any, frames: Any) -> None:
    model = make(size=("height", "width"))
    with pytest.raises(
        UserError, match=r"has no fixed height or width.*add `input_size: \[height, width\]` to .*own.yaml"
    ):
        imported(described(model), frames)
    description = described(model, input_size=[48, 64])
    converted = imported(description, frames)
    assert converted.meta["input_size"] == [48, 64]
    expected = reference(description.model, frames[0], layout="NCHW", order="RGB", output="logits")
    assert (run(converted.file("fp32.onnx"), frames[0]) == expected).mean() > 0.999


def test_a_graph_that_computes_something_else_is_refused(make: Any, described: Any, frames: Any) -> None:
    description = described(make())
    graph, size = deploy.build(network.load(description), description)
    last = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("last.weight"))
    last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last) * np.float32(1.01), last.name))
    with pytest.raises(UserError, match=r"logits differ from the file's by .* allowed: 0.001"):
        parity.check(description, {"fp32": graph, "fp16": graph}, frames, size=size)
    last.CopyFrom(numpy_helper.from_array(np.full((3, 8, 1, 1), np.nan, np.float32), last.name))
    with pytest.raises(UserError, match="differ from the file's by nan"):
        parity.check(description, {"fp32": graph, "fp16": graph}, frames, size=size)


def test_label_maps_that_disagree_are_refused(make: Any, described: Any, frames: Any) -> None:
    description = described(make(output="labels"), output="labels")
    graph, size = deploy.build(network.load(description), description)
    weight = next(tensor for tensor in graph.graph.initializer if tensor.name == "normalise.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[:, ::-1].copy(), weight.name))
    with pytest.raises(UserError, match=r"the fp32 deploy graph agrees with the file on .* of pixels; needed: 99.9%"):
        parity.check(description, {"fp32": graph, "fp16": graph}, frames, size=size)


def changed(model: onnx.ModelProto, *, weight: float = 1.0, offset: float = 0.0) -> onnx.ModelProto:
    """The last layer's weights multiplied, and an offset added to all channels: in float32 the labels do not change."""
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.name == "last.weight":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(weight), tensor.name))
    graph.initializer.append(numpy_helper.from_array(np.full(3, offset, np.float32), "offset"))
    next(node for node in graph.node if "last.weight" in node.input).input.append("offset")
    return model


def test_networks_that_overflow_in_float16_are_protected(make: Any, described: Any, frames: Any) -> None:
    description = described(changed(make(), weight=1e5))
    converted = imported(description, frames)
    float16 = converted.meta["float16"]
    assert float16["reliable"] and converted.meta["parity"]["agreement"]["fp16"] > 0.98
    assert "ids" in float16["float32_nodes"]  # as far as the argmax
    assert next(iter(float16["float32_nodes"].values())).startswith("'result' reaches ")


def test_networks_that_fail_in_float16_are_imported_with_a_warning(make: Any, described: Any, frames: Any) -> None:
    """Above 1024, float16 has steps of 1, and the logits differ by less. INT8 for CPUs does not need float16."""
    converted = imported(described(changed(make(), offset=1500.0)), frames)
    share = converted.meta["parity"]["agreement"]["fp16"]
    assert converted.meta["parity"]["agreement"]["fp32"] > 0.999 and share < 0.9
    assert converted.meta["float16"] == {"reliable": False, "float32_nodes": {}}
    (warning,) = float16_report(converted.meta)
    assert warning.startswith(f"warning: fp16.onnx agrees on only {share:.2%} of pixels when")


def test_ids_that_are_no_class_are_refused(make: Any, described: Any, frames: Any) -> None:
    description = described(
        make(output="labels"), output="labels", classes=["sky", "road"], palette=[[0, 0, 0], [1, 1, 1]]
    )
    with pytest.raises(UserError, match=r"its output has ids 2, which are no class; the 2 classes have the ids 0, 1"):
        imported(description, frames)
    assert not (description.file.parent / "onnx").exists()
