"""Nodes by provider, from profiles of real sessions on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from pipeline.errors import UserError
from pipeline.runtimes._onnxruntime import placement

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def placed(model: onnx.ModelProto, folder: Path, *, optimised: bool = True) -> list[placement.Node]:
    """The nodes of a session that ran once on zeros."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    placement.watch(options, folder)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    frame = session.get_inputs()[0]
    session.run(None, {frame.name: np.zeros(frame.shape, np.uint8)})
    nodes = placement.nodes(session)
    assert len(list(folder.iterdir())) == 1
    return nodes


def test_every_node_is_listed_with_its_provider(small_deploy: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    model = small_deploy()
    nodes = placed(model, tmp_path, optimised=False)
    assert placement.by_provider(nodes) == {CPU: [f"{node.op_type} {node.name}" for node in model.graph.node]}
    assert not any(node.computes_shapes for node in nodes)
    placement.check(nodes, provider=CPU)
    with pytest.raises(UserError) as raised:
        placement.check(nodes, provider=CUDA)
    message = str(raised.value)
    first = f"Cast cast ({CPU}), Transpose transpose ({CPU}), "
    assert message.startswith(f"9 of its 9 nodes do not run on {CUDA}: {first}")
    assert "Cast to_labels" in message and "convert.runtime: tensorrt" in message


def test_nodes_after_optimisation_are_listed(small_deploy: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    operators = {node.operator for node in placed(small_deploy(), tmp_path)}
    assert "Relu" not in operators and operators & {"FusedConv", "Conv"}


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    nodes = [placement.Node(f"n{index}", "Relu", CPU, computes_shapes=False) for index in range(14)]
    with pytest.raises(UserError, match=rf"14 of its 14 nodes .*Relu n9 \({CPU}\) and 4 more\. "):
        placement.check(nodes, provider=CUDA)


def test_shape_computations_may_run_on_the_cpu(tmp_path: Path) -> None:
    """Shape -> Mul -> Reshape: only Mul reads and writes nothing but a few integers."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Shape", ["frames"], ["sides"], name="measured"),
        helper.make_node("Mul", ["sides", "ones"], ["wanted"], name="computed"),
        helper.make_node("Reshape", ["frames", "wanted"], ["shaped"], name="used"),
        helper.make_node("Cast", ["shaped"], ["y"], name="converted", to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("frames", TensorProto.UINT8, [1, 8, 16, 3])],
        [value("y", TensorProto.FLOAT, [1, 8, 16, 3])],
        [helper.make_tensor("ones", TensorProto.INT64, [4], [1] * 4)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    found = placed(model, tmp_path, optimised=False)
    assert {node.name: node.computes_shapes for node in found} == {
        "measured": False,
        "computed": True,
        "used": False,
        "converted": False,
    }
    only_shapes = [
        placement.Node(node.name, node.operator, CPU if node.name == "computed" else CUDA, node.computes_shapes)
        for node in found
    ]
    placement.check(only_shapes, provider=CUDA)


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"input_type_shape": [{"int64": [4]}], "output_type_shape": [{"int64": []}]}, True),
        ({"input_type_shape": [{"int64": [4]}], "output_type_shape": [{"float": [4]}]}, False),
        ({"input_type_shape": [{"int64": [8, 16]}], "output_type_shape": [{"int64": [1]}]}, False),
        ({"output_type_shape": [{"int64": [1]}]}, False),
        ({}, False),
    ],
)
def test_what_counts_as_a_shape_computation(details: dict[str, Any], expected: bool) -> None:
    event = {"cat": "Node", "name": "a_kernel_time", "args": {"op_name": "Mul", "provider": CPU, **details}}
    assert placement.read([event]) == [placement.Node("a", "Mul", CPU, expected)]


def test_events_that_are_no_kernels_are_skipped() -> None:
    kernel = {"cat": "Node", "name": "a_kernel_time", "args": {"op_name": "Mul", "provider": CPU}}
    others = [
        {"cat": "Session", "name": "model_run", "args": {}},
        {"cat": "Node", "name": "a_fence_before", "args": {"op_name": "Mul"}},
        {"cat": "Kernel", "name": "cudnn", "args": {"provider": CUDA}},
    ]
    assert [node.name for node in placement.read([*others, kernel, kernel])] == ["a"]
    with pytest.raises(UserError, match="its profile names no node"):
        placement.read(others)
