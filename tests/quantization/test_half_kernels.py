"""On CUDA, ONNX Runtime has a kernel for every node of a float16 file, and no Cast between them is needless."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from pipeline.quantization.half import CUDA_FLOAT32, element_types
from tests.quantization.cuda_kernels import FLOAT16, has_float16
from tests.quantization.half_files import labels, read_types, unprotected


def cast_chains(model: onnx.ModelProto) -> list[str]:
    """Casts that read what another Cast has written."""
    written = {name for node in model.graph.node if node.op_type == "Cast" for name in node.output}
    return [node.name for node in model.graph.node if node.op_type == "Cast" and node.input[0] in written]


def without_kernel(model: onnx.ModelProto) -> list[str]:
    """Nodes that read or write float16 and have no float16 kernel on CUDA."""
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    kinds = element_types(onnx.shape_inference.infer_shapes(model))
    return [
        f"{node.op_type} {node.name}"
        for node in model.graph.node
        if TensorProto.FLOAT16 in {kinds.get(name) for name in (*node.input, *node.output)}
        and not has_float16(node.op_type, opset)
    ]


def test_the_float16_file_of_a_student_stays_on_the_gpu(student: Any) -> None:
    model = onnx.load(student.onnx.file("fp16.onnx"))
    assert without_kernel(model) == []
    kinds = element_types(onnx.shape_inference.infer_shapes(model))
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    types = [(kinds[cast.input[0]], kinds[cast.output[0]]) for cast in casts]
    assert types == [(TensorProto.UINT8, TensorProto.FLOAT16), (TensorProto.INT64, TensorProto.UINT8)]
    assert cast_chains(model) == []
    chooser = next(node for node in model.graph.node if node.op_type == "ArgMax")
    assert not any(attribute.i for attribute in chooser.attribute if attribute.name == "select_last_index")
    resized = [kinds[node.output[0]] for node in model.graph.node if node.op_type == "Resize"]
    assert resized and set(resized) == {TensorProto.FLOAT16} and kinds[chooser.input[0]] == TensorProto.FLOAT16


@pytest.mark.parametrize("operator", sorted(CUDA_FLOAT32))
def test_both_tables_agree(operator: str) -> None:
    first, last = CUDA_FLOAT32[operator]
    for opset in range(first, last + 1):
        assert not has_float16(operator, opset), opset
    assert operator not in FLOAT16 or has_float16(operator, last + 1)


def test_an_operator_without_a_float16_kernel_stays_in_float32(make: Any, frames: Any) -> None:
    """GridSample, which ONNX allows in float16."""
    size = frames[0].shape[0]
    lines = np.linspace(-1, 1, size, dtype=np.float32)
    grid = np.stack(np.meshgrid(0.5 * lines, 0.5 * lines), axis=-1)[None]

    def fill(net: Any) -> None:
        net.add("Relu", [net.conv("x", "a", 3, 8)], "a_relu")
        net.add("GridSample", ["a_relu", net.constant("grid", grid)], "zoomed")
        net.conv("zoomed", "logits", 8, 16)

    model = make(None, fill)
    half = unprotected(model)
    onnx.checker.check_model(half, full_check=True)
    assert read_types(half, "zoomed") == ["FLOAT", "FLOAT"] and read_types(half, "logits")[0] == "FLOAT16"
    assert without_kernel(half) == [] and cast_chains(half) == []
    assert (labels(half, frames) == labels(model, frames)).mean() > 0.97
