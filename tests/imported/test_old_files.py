"""Unusual files: old opsets and IR versions, branches that depend on a size, names that we use too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline import artifact
from pipeline.errors import UserError
from pipeline.imported.description import Description
from pipeline.imported.names import rename
from pipeline.imported.onnx_artifact import import_network
from pipeline.quantization import calibration, cpu, tensorrt
from pipeline.quantization import graph as graphs
from pipeline.quantization.ranges import choose_all

node = helper.make_node


def require_same(description: Description, frames: Any, *, share: float = 0.999) -> artifact.Artifact:
    """Import the network, and compare its label maps with those of its file, run by ONNX Runtime on RGB / 255."""
    out = description.file.parent / "onnx"
    import_network(description, out, frames=lambda size: frames)
    converted = artifact.load(out, kind="onnx")
    deploy = onnxruntime.InferenceSession(str(converted.file("fp32.onnx")), providers=["CPUExecutionProvider"])
    original = onnxruntime.InferenceSession(str(description.model), providers=["CPUExecutionProvider"])
    for frame in frames:
        image = (frame[:, :, ::-1] / 255).astype(np.float32).transpose(2, 0, 1)[None]
        expected = original.run(["scores"], {original.get_inputs()[0].name: np.ascontiguousarray(image)})[0].argmax(
            axis=1
        )
        assert len(np.unique(expected)) > 1
        assert (deploy.run(None, {"frames": frame[None]})[0] == expected).mean() >= share
    return converted


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("opset", [7, 8, 9, 10])
def test_old_upsampling_measures_from_corners(make: Any, described: Any, frames: Any, opset: int, mode: str) -> None:
    model = make(opset=opset, stride=4)
    operator = "Resize" if opset == 10 else "Upsample"
    if opset < 9:
        model.graph.node[-1].CopyFrom(node(operator, ["deep"], ["scores"], mode=mode, scales=[1.0, 1.0, 4.0, 4.0]))
    else:
        model.graph.node[-1].CopyFrom(node(operator, ["deep", "scales"], ["scores"], mode=mode))
        model.graph.initializer.append(numpy_helper.from_array(np.float32([1, 1, 4, 4]), "scales"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3, 48, 64]))
    require_same(described(model), frames, share=1.0 if mode == "nearest" else 0.999)


def test_old_resizing_that_shrinks(make: Any, described: Any, frames: Any) -> None:
    """In opset 10, ONNX Runtime rounds a pixel's position up when an image shrinks."""
    model = make(opset=10)
    model.graph.node[-1].CopyFrom(node("Resize", ["deep", "down"], ["small"], mode="nearest"))
    model.graph.node.append(node("Resize", ["small", "up"], ["scores"], mode="nearest"))
    for name, scale in (("down", 0.375), ("up", 1 / 0.375)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32([1, 1, scale, scale]), name))
    require_same(described(model), frames, share=1.0)


def test_ir_version_3_with_weights_among_the_inputs(make: Any, described: Any, frames: Any) -> None:
    model = make(opset=7, size=(48, 64))
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims)))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "None"
    converted = require_same(described(model), frames)
    operators = [each.op_type for each in onnx.load(converted.file("fp32.onnx")).graph.node]
    assert "BatchNormalization" not in operators  # weights are constants, so it folds
    before = converted.file("fp32.onnx").read_bytes()
    del model.graph.input[-1]  # some files list only some of them, and ONNX Runtime cannot run these files
    description = described(model)
    import_network(description, description.file.parent / "onnx", frames=lambda size: frames)
    assert converted.file("fp32.onnx").read_bytes() == before


def test_an_operator_that_cannot_be_converted_is_named(
    make: Any, described: Any, frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
        raise onnx.version_converter.ConvertError("No adapter for Wobble")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    with pytest.raises(
        UserError, match="opset 12 cannot be converted to 18: No adapter for Wobble; export the network"
    ):
        require_same(described(make()), frames)


def branch(name: str, operator: str, *more: str) -> onnx.GraphProto:
    """A graph that reads ``deep`` from the graph around it, as torch exports a squeeze of an axis that may be 1."""
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph([node(operator, ["deep", *more], [name])], name, [], [value])


def test_a_branch_that_depends_on_the_size_is_folded(make: Any, described: Any, frames: Any) -> None:
    model = make(opset=13, size=("h", "w"), heads=2)
    del model.graph.node[-2]
    model.graph.node.extend([
        node("Shape", ["input"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Equal", ["batch", "one"], ["single"]),
        node("If", ["single"], ["scores"], then_branch=branch("a", "Identity"), else_branch=branch("b", "Softmax")),
    ])  # fmt: skip
    for name, value in (("zero", 0), ("one", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    converted = require_same(described(model, head="scores", input_size=[48, 64]), frames)
    assert "If" not in [each.op_type for each in onnx.load(converted.file("fp32.onnx")).graph.node]


OURS = [
    ("border_above", "frames_padded_1"),
    ("border_left", "normalise.weight"),
    ("frames", "image"),
    ("planes", "threshold"),
    ("result", "table"),
    ("network.net.c", "c_scale"),
    ("c_zero_point", "c_dq"),
    ("c_QuantizeLinear_Output", "n_q"),
    ("first_on_pixels", "first_int8"),
    ("first_on_pixels_bias", "image_scale"),
    ("c_scale.", "c_scale"),
    ("c|terms", "c|magnitudes"),
]


@pytest.mark.parametrize("names", OURS, ids=" ".join)
def test_names_that_our_passes_use(make: Any, described: Any, frames: Any, names: tuple[str, str]) -> None:
    """Weights and nodes with these names: calibration works, and both placements agree with the float graph."""
    model = make()
    new = {"normalise.weight": "first", "slope": names[0], "last.weight": names[1]}
    for each in model.graph.node:
        each.input[:] = [new.get(part, part) for part in each.input]
    for tensor in model.graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    model.graph.node[0].name, model.graph.node[1].name = names
    converted = require_same(described(model), frames)
    file = converted.file("fp32.onnx")
    ranges = choose_all(calibration.collect(file, frames).histograms, method="minmax", percentile=100, symmetric=False)
    graph = graphs.load(str(file))
    plain = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for placed in (cpu.place(graph, ranges), tensorrt.place(graph, ranges, float16=False)):
        tensor_names = [part for each in placed.graph.node for part in each.output]
        tensor_names += [tensor.name for tensor in placed.graph.initializer]
        assert len(set(tensor_names)) == len(tensor_names)
        session = onnxruntime.InferenceSession(placed.SerializeToString(), providers=["CPUExecutionProvider"])
        for frame in frames:
            same = session.run(None, {"frames": frame[None]})[0] == plain.run(None, {"frames": frame[None]})[0]
            assert same.mean() > 0.97


def test_nodes_with_equal_names(make: Any, described: Any, frames: Any) -> None:
    reference = require_same(described(make()), frames).file("fp32.onnx").read_bytes()
    model = make()
    for each in model.graph.node:
        each.name = "the_node"
    description = described(model)
    import_network(description, description.file.parent / "onnx", frames=lambda size: frames)
    renamed = onnxruntime.InferenceSession(
        str(description.file.parent / "onnx/fp32.onnx"), providers=["CPUExecutionProvider"]
    ).run
    expected = onnxruntime.InferenceSession(reference, providers=["CPUExecutionProvider"]).run
    for frame in frames:
        assert (renamed(None, {"frames": frame[None]})[0] == expected(None, {"frames": frame[None]})[0]).all()


def test_renamed_tensors_are_unique_and_keep_their_titles(make: Any) -> None:
    model = make()
    rename(model)
    before = model.SerializeToString()
    names = {part for each in model.graph.node for part in (*each.input, *each.output)} - {"image", "result"}
    assert all(name.startswith("network.net.") for name in names)
    rename(model)
    assert model.SerializeToString() == before
    titles = graphs.Graph(model).titles
    assert sorted(titles.values()) == ["last", "normalise"]


def test_external_constants_of_any_size(make: Any, described: Any, frames: Any, tmp_path: Path) -> None:
    """Sizes that shape inference needs may be in the data file too. The hashes of both files identify the network."""
    model = make(opset=13, stride=2)
    model.graph.node[-1].CopyFrom(node("Resize", ["deep", "", "", "size"], ["scores"], mode="linear"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", TensorProto.FLOAT, None))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 3, 48, 64]), "size"))
    plain = described(model)
    converted = require_same(plain, frames)
    inside = {name: converted.file(name).read_bytes() for name in ("fp32.onnx", "fp16.onnx")}
    onnx.save_model(model, tmp_path / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    import_network(plain, tmp_path / "onnx", frames=lambda size: frames)
    converted = artifact.load(tmp_path / "onnx", kind="onnx")
    assert {name: converted.file(name).read_bytes() for name in inside} == inside
    assert converted.meta["parents"].keys() == {"file", "data"}


def test_a_network_that_is_too_large_for_one_file(
    make: Any, described: Any, frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.imported.reading.LARGEST_FILE", 1000)
    with pytest.raises(UserError, match=r"GiB with its external data; allowed: 2 GiB; choose"):
        require_same(described(make()), frames)
