"""Files that the real TensorRT-RTX refuses, each with one clear error; open batches that it builds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline import artifact, runtimes
from pipeline.errors import UserError
from pipeline.runtimes import _cuda

TARGET = {"compute_capabilities": ["SM86"]}


@pytest.fixture
def rtx() -> Callable[..., Any]:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install segpress[rtx]")
    return lambda **options: runtimes.build("tensorrt_rtx", {**TARGET, **options})


def graph_file(folder: Path, nodes: list[onnx.NodeProto], shape: list[int], **weights: Any) -> Path:
    """A float graph from ``x`` to ``y``, both of one shape."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, folder / "graph.onnx")
    return folder / "graph.onnx"


def refused(runtime: Any, file: Path, tmp_path: Path) -> str:
    with pytest.raises(UserError) as raised:
        runtime.build(file, tmp_path / "plan")
    assert not (tmp_path / "plan").exists()
    message = str(raised.value)
    assert message.startswith(f"{file}: ")
    assert message.count(file.name) == 1 and "\n" not in message and "/_src/" not in message
    return message


@pytest.mark.parametrize("operator", ["Wobble", "Unique"])
def test_an_operator_that_it_does_not_have(rtx: Any, tmp_path: Path, operator: str) -> None:
    file = graph_file(tmp_path, [helper.make_node(operator, ["x"], ["y"], name="the_node")], [4])
    message = refused(rtx(), file, tmp_path)
    assert f"node 0 (the_node, {operator}): an operator that it does not support in any precision; use a" in message


def test_an_operator_without_any_precision_is_not_blamed_on_the_precision(rtx: Any, tmp_path: Path) -> None:
    resize = helper.make_node("Resize", ["x", "", "", "n"], ["y"], name="the_resize", mode="linear", antialias=1)
    message = refused(rtx(), graph_file(tmp_path, [resize], [1, 1, 8, 8], n=np.array([1, 1, 8, 8])), tmp_path)
    assert (
        "node 0 (the_resize, Resize): a form of the operator that it does not support in any precision; use" in message
    )
    padded = helper.make_node("MaxPool", ["x"], ["y"], name="the_pool", kernel_shape=[1, 1], pads=[-1, 0, 0, 0])
    message = refused(rtx(), graph_file(tmp_path, [padded], [1, 1, 8, 8]), tmp_path)
    assert "(the_pool, MaxPool)" in message and "another precision" not in message
    assert "if the float files fail too, use a network without that layer, or another convert.runtime" in message


@pytest.mark.parametrize("content", [b"not onnx", b"", None])
def test_a_file_that_is_no_onnx_or_truncated(
    rtx: Any, small_files: Path, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "bad.onnx"
    file.write_bytes((small_files / "fp32.onnx").read_bytes()[:-3000] if content is None else content)
    reason = "it holds no graph" if content == b"" else "it is not an ONNX file, or is truncated"
    assert f" cannot parse it: {reason}" in refused(rtx(), file, tmp_path)


def test_types_that_do_not_fit_are_reported_with_the_layer(rtx: Any, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], name="to_half", to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["half", "w"], ["y"], name="the_conv"),
    ]
    file = graph_file(tmp_path, nodes, [1, 8, 4, 4], w=np.ones((8, 8, 1, 1), np.float32))
    message = refused(rtx(), file, tmp_path)
    assert "node 1 (the_conv, Conv): " in message
    assert "`input` type is Half but `kernel` is of type Float" in message and "try another precision" in message
    assert "cudaError" not in message  # a missing driver of this machine is not the reason


def test_a_build_that_fails_names_the_node_of_the_log(rtx: Any, tmp_path: Path) -> None:
    """A Sigmoid on int8 parses; the compiler has no rule for it and ends its message with the node's name."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="to_int8"),
        helper.make_node("Sigmoid", ["q"], ["r"], name="int8_sigmoid"),
        helper.make_node("DequantizeLinear", ["r", "s", "z"], ["y"], name="to_float"),
    ]
    file = graph_file(tmp_path, nodes, [1, 16, 8, 8], s=np.float32(0.1), z=np.int8(0))
    message = refused(rtx(workspace_mib=3), file, tmp_path)
    assert "could not build it at int8_sigmoid: " in message
    assert "Could not infer output types" in message
    assert "; try a larger convert.tensorrt_rtx.workspace_mib (now 3), or another precision" in message


def test_too_small_a_workspace_is_reported_with_the_requested_size(rtx: Any, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["m"], name="first", pads=[1] * 4),
        helper.make_node("Conv", ["m", "w"], ["y"], name="second", pads=[1] * 4),
    ]
    weight = np.random.default_rng(0).standard_normal((512, 512, 3, 3), np.float32)
    file = graph_file(tmp_path, nodes, [1, 512, 64, 64], w=weight)
    message = refused(rtx(workspace_mib=1), file, tmp_path)
    assert "OutOfMemory (Requested size was " in message
    assert "try a larger convert.tensorrt_rtx.workspace_mib (now 1)" in message
    rtx(workspace_mib=64).build(file, tmp_path / "plan")
    assert (tmp_path / "plan").stat().st_size > weight.size


def test_an_open_batch_is_built_with_its_profile(
    rtx: Any, small_deploy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cuda, "device", lambda: None)  # the inspector is not the subject
    onnx.save(small_deploy(batch="n"), tmp_path / "open.onnx")
    message = refused(rtx(), tmp_path / "open.onnx", tmp_path)
    assert (
        "input 'frames' [-1, 16, 16, 3]: its batch is open; set convert.tensorrt_rtx.batch to [min, opt, max]"
        in message
    )
    options = {**TARGET, "batch": [1, 2, 4]}
    runtime = runtimes.build("tensorrt_rtx", options)
    runtimes.build_engine(
        runtime, tmp_path / "open.onnx", tmp_path / "e", name="tensorrt_rtx", options=options, meta={}
    )
    built = artifact.load(tmp_path / "e", kind="engine")
    assert built.file("engine.plan").stat().st_size > 10_000
    sizes = {"min": [1, 16, 16, 3], "opt": [2, 16, 16, 3], "max": [4, 16, 16, 3]}
    assert built.meta["build"]["profile"] == {"frames": sizes}


@pytest.mark.parametrize(
    ("sizes", "batch", "message"),
    [
        ({"batch": "n", "height": "h"}, [1, 2, 4], "input 'frames' [-1, -1, 16, 3]: dimension 1 is open"),
        ({"height": "h"}, None, "input 'frames' [1, -1, 16, 3]: dimension 1 is open"),
        ({"batch": 2}, [1, 2, 4], "batch: got [1, 2, 4], but the graph has fixed sizes: frames [2, 16, 16, 3]"),
    ],
)
def test_other_open_sizes_and_batches(
    rtx: Any, small_deploy: Any, tmp_path: Path, sizes: dict[str, Any], batch: Any, message: str
) -> None:
    onnx.save(small_deploy(**sizes), tmp_path / "graph.onnx")
    assert message in refused(rtx(batch=batch), tmp_path / "graph.onnx", tmp_path)


def test_a_batch_that_is_the_graphs_own_is_taken(rtx: Any, small_deploy: Any, tmp_path: Path) -> None:
    onnx.save(small_deploy(batch=2), tmp_path / "graph.onnx")
    facts = rtx(batch=[2, 2, 2]).build(tmp_path / "graph.onnx", tmp_path / "plan")
    assert "profile" not in facts
