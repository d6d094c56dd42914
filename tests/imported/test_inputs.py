"""Networks with every kind of input: bytes, float16, and networks that normalise the image themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.imported.description import Description
from pipeline.imported.onnx_artifact import import_network
from pipeline.quantization import cpu
from pipeline.quantization import graph as graphs

node = helper.make_node


def beginning(model: onnx.ModelProto, nodes: list[onnx.NodeProto], kind: int, shape: Any, **constants: Any) -> Any:
    """The network with an image of another type, and other nodes from it to ``image``, which the first layer reads."""
    for each in model.graph.node:
        each.input[:] = ["image" if name == "input" else name for name in each.input]
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in constants.items())
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", kind, shape))
    return model


def expected(description: Description, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Labels that the file computes for an image prepared by the test."""
    session = onnxruntime.InferenceSession(str(description.model), providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"input": np.ascontiguousarray(image)})[0].argmax(axis=1)[0]


def labels(description: Description, frames: Any) -> tuple[artifact.Artifact, list[npt.NDArray[np.uint8]]]:
    """The imported artifact, and the label maps of its float graph."""
    out = description.file.parent / "onnx"
    import_network(description, out, frames=lambda size: frames)
    converted = artifact.load(out, kind="onnx")
    session = onnxruntime.InferenceSession(str(converted.file("fp32.onnx")), providers=["CPUExecutionProvider"])
    return converted, [session.run(None, {"frames": frame[None]})[0][0] for frame in frames]


CAST = node("Cast", ["input"], ["pixels"], to=TensorProto.FLOAT)
SCALE = node("Mul", ["pixels", "scale"], ["image"])
TURNED = [
    node("Transpose", ["input"], ["planes"], perm=[0, 3, 1, 2]),
    node("Cast", ["planes"], ["pixels"], to=1),
    SCALE,
]
INTEGERS = [node("Sub", ["input", "input"], ["none"]), node("Add", ["input", "none"], ["same"])]


@pytest.mark.parametrize(
    ("nodes", "kind", "keys", "shift"),
    [
        ([CAST, SCALE], TensorProto.UINT8, {}, 0),
        ([CAST, SCALE], TensorProto.UINT8, {"mean": 0.0, "std": 1.0}, 0),
        ([CAST, SCALE], TensorProto.UINT8, {"std": 0.00392157}, 0),
        ([CAST, SCALE], TensorProto.INT32, {}, 0),
        ([CAST, SCALE], TensorProto.INT8, {"mean": 0.501961, "std": 0.00392157}, 128),
        (TURNED, TensorProto.UINT8, {"layout": "NHWC"}, 0),
        ([*INTEGERS, node("Cast", ["same"], ["pixels"], to=1), SCALE], TensorProto.INT32, {}, 0),
    ],
)
def test_images_of_integers(
    make: Any, described: Any, frames: Any, nodes: Any, kind: int, keys: dict[str, Any], shift: int
) -> None:
    last = keys.get("layout") == "NHWC"
    shape = [1, 48, 64, 3] if last else [1, 3, 48, 64]
    description = described(beginning(make(), nodes, kind, shape, scale=np.float32(1 / 255)), **keys)
    converted, label_maps = labels(description, frames)
    for frame, labelled in zip(frames, label_maps, strict=True):
        image = frame[None, :, :, ::-1].astype(np.int32) - shift
        image = image if last else image.transpose(0, 3, 1, 2)
        reference = expected(description, image.astype(helper.tensor_dtype_to_np_dtype(kind)))
        assert len(np.unique(reference)) > 1 and (labelled == reference).mean() > 0.999
    assert converted.meta["std"] == pytest.approx([1 / 255] * 3)
    if nodes[0].op_type != "Sub":  # TensorRT does not support bytes between layers
        casts = [each for each in onnx.load(converted.file("fp32.onnx")).graph.node if each.op_type == "Cast"]
        assert [each.name for each in casts] == ["pixels", "labels"]


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        (
            TensorProto.UINT8,
            {"mean": 0.5, "std": 0.5},
            "-1 to 1; the input of model.onnx is uint8: .*; leave mean and std out",
        ),
        (TensorProto.UINT8, {"mean": 0.502, "std": 0.00392157}, "-128 to 127; .*; leave mean and std out"),
        (TensorProto.INT8, {}, r"0 to 255; .* int8: .*; write std: 0.00392157 and mean: 0.501961 \(128 / 255\)"),
    ],
)
def test_mean_and_std_that_give_no_whole_numbers(
    make: Any, described: Any, frames: Any, kind: int, keys: dict[str, Any], message: str
) -> None:
    model = beginning(make(), [CAST, SCALE], kind, [1, 3, 48, 64], scale=np.float32(1 / 255))
    with pytest.raises(UserError, match=rf"own.yaml: mean and std: got .*{message}"):
        labels(described(model, **keys), frames)


def test_an_image_without_batch(make: Any, described: Any, frames: Any) -> None:
    nodes = [node("Unsqueeze", ["input", "first"], ["image"])]
    for layout, shape in (("NCHW", [3, 48, 64]), ("NHWC", [48, 64, 3])):
        model = beginning(make(opset=13), nodes, TensorProto.FLOAT, shape, first=np.array([0]))
        if layout == "NHWC":
            model.graph.node.insert(0, node("Transpose", ["input"], ["turned"], perm=[2, 0, 1]))
            model.graph.node[1].input[0] = "turned"
        description = described(model, layout=layout, output_layout="NCHW")
        image = (frames[0][:, :, ::-1] / 255).astype(np.float32)
        reference = expected(description, image if layout == "NHWC" else image.transpose(2, 0, 1))
        assert (labels(description, frames)[1][0] == reference).mean() > 0.999


def test_std_above_one(make: Any, described: Any, frames: Any) -> None:
    """(pixel - mean) / std / 255, as SINet reads it."""
    mean, std = np.float32([102.9, 111.3, 126.9]), np.float32([62.9, 62.8, 66.4])
    model = make()
    for tensor in model.graph.initializer:
        if tensor.name == "normalise.weight":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 100, tensor.name))
    description = described(model, mean=[float(value) / 255 for value in mean], std=[float(value) for value in std])
    for frame, labelled in zip(frames, labels(description, frames)[1], strict=True):
        image = ((frame[:, :, ::-1] - mean) / std / 255).astype(np.float32).transpose(2, 0, 1)[None]
        reference = expected(description, image)
        assert len(np.unique(reference)) > 1 and (labelled == reference).mean() > 0.999


def halved(model: onnx.ModelProto, *, outside: bool) -> onnx.ModelProto:
    """The network in float16, its image and scores in float32 unless ``outside`` too."""
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    if outside:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
        return model
    model = beginning(model, [node("Cast", ["input"], ["image"], to=10)], TensorProto.FLOAT, [1, 3, 48, 64])
    model.graph.node[-1].CopyFrom(node("Cast", ["deep"], ["scores"], to=TensorProto.FLOAT))
    return model


@pytest.mark.parametrize("outside", [True, False])
def test_a_file_in_float16(make: Any, described: Any, frames: Any, outside: bool) -> None:
    description = described(halved(make(), outside=outside))
    converted, label_maps = labels(description, frames)
    for frame, labelled in zip(frames, label_maps, strict=True):
        image = (frame[:, :, ::-1] / 255).astype(np.float16 if outside else np.float32).transpose(2, 0, 1)[None]
        assert (labelled == expected(description, image)).mean() > 0.99
    kinds = {tensor.data_type for tensor in onnx.load(converted.file("fp32.onnx")).graph.initializer}
    assert TensorProto.FLOAT16 not in kinds
    weight = numpy_helper.to_array(weight_of(converted, "last.weight"))
    assert (weight == weight.astype(np.float16)).all()  # each keeps its value
    cpu.place(
        graph := graphs.load(str(converted.file("fp32.onnx"))), dict.fromkeys(graph.float_activations(), (-4.0, 4.0))
    )


def weight_of(converted: artifact.Artifact, name: str) -> onnx.TensorProto:
    tensors = onnx.load(converted.file("fp32.onnx")).graph.initializer
    return next(tensor for tensor in tensors if tensor.name.endswith(name))


def test_bfloat16_is_refused(make: Any, described: Any, frames: Any) -> None:
    model = make()
    last = next(tensor for tensor in model.graph.initializer if tensor.name == "last.weight")
    raw = helper.make_tensor("brain", TensorProto.BFLOAT16, last.dims, numpy_helper.to_array(last).ravel())
    last.CopyFrom(raw)
    model.graph.node.insert(0, node("Cast", ["brain"], ["last.weight"], to=TensorProto.FLOAT))
    model.opset_import[0].version = 13
    with pytest.raises(UserError, match="weight 'brain' is bfloat16; export the network again in float32"):
        labels(described(model), frames)


def test_an_image_of_unknown_shape(make: Any, described: Any, frames: Any) -> None:
    model = make()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UserError, match=r"has no fixed height or width.*add `input_size"):
        labels(described(model), frames)
    description = described(model, input_size=[48, 64])
    image = (frames[0][:, :, ::-1] / 255).astype(np.float32).transpose(2, 0, 1)[None]
    assert (labels(description, frames)[1][0] == expected(description, image)).mean() > 0.999


def test_an_input_that_another_head_needs(make: Any, described: Any, frames: Any) -> None:
    model = make(heads=2)
    model.graph.input.append(helper.make_tensor_value_info("depth", TensorProto.FLOAT, [1, 3, 48, 64]))
    model.graph.node[-1].CopyFrom(node("Add", ["deep", "depth"], ["head1"]))
    labels(described(model, head="scores"), frames)
    with pytest.raises(UserError, match=r"the output 'head1' needs 2 inputs \(input, depth\); needed: one, the image"):
        labels(described(model, head="head1"), frames)
