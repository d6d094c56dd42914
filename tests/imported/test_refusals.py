"""Networks that cannot be imported: one message says what is wrong, where, and what to do; nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import UserError
from pipeline.imported import network
from pipeline.imported.onnx_artifact import import_network


@pytest.fixture
def refused(described: Any, frames: Any) -> Callable[..., str]:
    """``refused(model, **description)`` -> the message; checks that nothing was written."""

    def refusal(model: onnx.ModelProto | None, /, **keys: Any) -> str:
        description = described(model, **keys)
        before = {path.name for path in description.file.parent.iterdir()}
        with pytest.raises(UserError) as caught:
            import_network(description, description.file.parent / "onnx", frames=lambda size: frames)
        assert {path.name for path in description.file.parent.iterdir()} == before
        return str(caught.value)

    return refusal


@pytest.mark.parametrize("content", [b"", b"not a network at all", None], ids=["empty", "text", "cut"])
def test_a_damaged_file(make: Any, refused: Any, tmp_path: Path, content: bytes | None) -> None:
    whole = make().SerializeToString()
    (tmp_path / "model.onnx").write_bytes(whole[: len(whole) // 2] if content is None else content)
    message = refused(None)
    assert str(tmp_path / "model.onnx") in message and "export the network again" in message


def test_a_missing_file(refused: Any, tmp_path: Path) -> None:
    assert "model.onnx: no such file; set `model` in the description to" in refused(None)
    assert "a folder; set `model` in the description to the .onnx file" in refused(None, model="..")


def test_an_unknown_operator(make: Any, refused: Any) -> None:
    model = make()
    model.graph.node[2].op_type = "PReluu"
    assert "not valid ONNX: " in (message := refused(model)) and "PReluu" in message


def test_several_heads_and_none_named(make: Any, refused: Any) -> None:
    message = refused(make(heads=2))
    assert "2 outputs ('scores' float 1x3x48x64; 'head1' float 1x3x48x64)" in message and "`head: ...`" in message


def test_a_head_that_is_the_image(make: Any, refused: Any) -> None:
    model = make(heads=2)
    model.graph.output[1].name = "input"
    assert "the output 'input' is the image itself; name another `head`" in refused(model, head="input")


def test_an_unknown_head(make: Any, refused: Any) -> None:
    assert "head: no output 'score'; did you mean 'scores'?" in refused(make(heads=2), head="score")


def test_a_wrong_number_of_classes(make: Any, refused: Any) -> None:
    message = refused(make(classes=5))
    assert (
        "is float32 1x5x48x64: 5 channels (layout NCHW), but the description names 3 classes (sky, road, car)"
        in message
    )


def test_logits_described_as_labels_and_labels_as_logits(make: Any, refused: Any) -> None:
    assert "is float32 1x3x48x64; a label map has one id per pixel" in refused(make(), output="labels")
    assert "is int64 1x1x48x64; logits are floats, with one channel per class" in refused(make(output="labels"))


def test_a_size_that_contradicts_the_file(make: Any, refused: Any) -> None:
    assert "input_size: got [32, 64], but the ONNX file is fixed to [48, 64]" in refused(make(), input_size=[32, 64])


def test_another_layout(make: Any, refused: Any) -> None:
    message = refused(make(), layout="NHWC")
    assert "input 'input' is 1x3x48x64; needed: one frame of three channels, 1xHxWx3 for layout NHWC" in message


def test_a_size_for_which_the_network_does_not_work(refused: Any) -> None:
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Conv", ["x", "w"], ["half"], strides=[2, 2], kernel_shape=[1, 1]),
            node("ConvTranspose", ["half", "v"], ["whole"], strides=[2, 2]),
            node("Add", ["x", "whole"], ["y"]),
        ],
        "hourglass",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [
            numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w"),
            numpy_helper.from_array(np.ones((3, 3, 2, 2), np.float32), "v"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    message = refused(model, input_size=[47, 64])
    assert "cannot run it at 47x64: " in message and "choose another input_size in" in message and "own.yaml" in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(make: Any, refused: Any, value: float) -> None:
    model = make()
    for name in ("slope", "bn_bias"):
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        broken = numpy_helper.to_array(tensor).copy()
        broken.flat[0] = value
        tensor.CopyFrom(numpy_helper.from_array(broken, name))
    message = refused(model)
    assert "2 problems" in message and "weight 'slope' holds NaN or infinity" in message and "'bn_bias'" in message


def test_weights_of_a_head_that_is_not_used_may_be_anything(make: Any, described: Any) -> None:
    model = make(heads=2)
    model.graph.initializer.append(numpy_helper.from_array(np.float32([np.nan]), "lost"))
    model.graph.node[-1].CopyFrom(helper.make_node("Mul", ["deep", "lost"], ["head1"]))
    assert network.load(described(model, head="scores")).shape == (1, 3, 48, 64)


def external(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The model with its weights in a file of the folder, read without this data."""
    onnx.save_model(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    return onnx.load(folder / "model.onnx", load_external_data=False)


def test_external_data(make: Any, described: Any, refused: Any, tmp_path: Path) -> None:
    model = external(make(), tmp_path)
    assert network.load(described(None)).parameters == network.load(described(make())).parameters
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:100])
    assert "its external data cannot be read" in refused(None)
    (tmp_path / "weights.bin").unlink()
    message = refused(None)
    assert "model.onnx: 1 problem" in message and "in 'weights.bin', which is missing" in message
    assert "put the data file beside the .onnx file" in message


@pytest.mark.parametrize("absolute", [True, False])
def test_external_data_outside_the_folder(make: Any, refused: Any, tmp_path: Path, absolute: bool) -> None:
    (tmp_path / "inner").mkdir()
    model = external(make(), tmp_path)  # weights.bin is beside inner/, not in it
    place = str(tmp_path / "weights.bin") if absolute else "../weights.bin"
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = place
    (tmp_path / "inner" / "model.onnx").write_bytes(model.SerializeToString())
    assert f"in '{place}'; allowed: a relative path inside the model's folder" in refused(
        None, model="inner/model.onnx"
    )


def test_operators_that_are_not_onnx_or_not_float(make: Any, refused: Any) -> None:
    model = make()
    model.graph.node[-1].CopyFrom(helper.make_node("FusedGelu", ["deep"], ["scores"], "gelu", domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "operator com.microsoft.FusedGelu (node 'gelu') is not a standard ONNX operator" in refused(model)
    model = make(opset=13)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "s"))
    model.graph.node[-1].CopyFrom(helper.make_node("QuantizeLinear", ["deep", "s"], ["q"], "quantise"))
    model.graph.node.append(helper.make_node("DequantizeLinear", ["q", "s"], ["scores"], "dequantise"))
    message = refused(model)
    assert (
        "2 problems" in message
        and "operator QuantizeLinear (node 'quantise'): the network is already quantised" in message
    )


def test_a_branch_at_run_time(make: Any, refused: Any) -> None:
    model = make()
    value = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Identity", ["deep"], ["t"])], "branch", [], [value])
    nodes = [
        helper.make_node("ReduceMax", ["deep"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "slope_of_nothing"], ["yes"]),
        helper.make_node("If", ["yes"], ["scores"], "choice", then_branch=branch, else_branch=branch),
    ]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "slope_of_nothing"))
    del model.graph.node[-1]
    model.graph.node.extend(nodes)
    assert "operator If (node 'choice') decides at run time what to compute" in refused(model)


def test_an_opset_that_is_too_old(make: Any, refused: Any) -> None:
    assert "opset 6; needed: 7 or newer; export the network again with opset 18" in refused(make(opset=6))


def test_an_opset_that_cannot_be_converted(make: Any, refused: Any) -> None:
    model = make(opset=23)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(64, np.float32), "gain"))
    model.graph.node[-1].CopyFrom(helper.make_node("RMSNormalization", ["deep", "gain"], ["scores"], "rms"))
    message = refused(model)
    assert "opset 23 cannot be converted to 20: " in message and "export the network again with opset 18" in message


def test_an_operator_that_the_runtime_cannot_run(make: Any, refused: Any) -> None:
    model = make(opset=9)
    model.graph.initializer.append(numpy_helper.from_array(np.float32([1, 1, 1, 1]), "factors"))
    model.graph.node[-1].CopyFrom(helper.make_node("Upsample", ["deep", "factors"], ["scores"], mode="cubic_of_old"))
    message = refused(model)
    assert "cannot run it at 48x64: " in message and "cubic_of_old" in message


def test_more_than_one_input(make: Any, described: Any, refused: Any) -> None:
    model = make()
    model.graph.input.append(helper.make_tensor_value_info("depth", TensorProto.FLOAT, [1, 1, 48, 64]))
    assert network.load(described(model)).shape == (1, 3, 48, 64)  # nothing reads it
    model.graph.node[-1].CopyFrom(helper.make_node("Add", ["deep", "depth"], ["scores"]))
    message = refused(model)
    assert "the output 'scores' needs 2 inputs (input, depth); needed: one, the image" in message
    assert "with the others as constants" in message


def test_weights_listed_as_inputs_are_no_inputs(make: Any, described: Any) -> None:
    model = make()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims)))
    assert network.load(described(model)).shape == (1, 3, 48, 64)
