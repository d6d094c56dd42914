"""Bringing a network to an opset that every target knows, without a change of what it computes.

ONNX's converter leaves one thing out (onnx/onnx#8480): Upsample, and Resize up to opset 10, measure from the corner of
a pixel, and Resize from opset 11 on measures from its centre unless an attribute says otherwise.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper, numpy_helper

from pipeline.errors import UserError
from pipeline.export.onnx_file import OPSET
from pipeline.foreign import reading

#: The newest opset that stays as it is; the TensorRT file is of this one.
NEWEST = 20
#: The oldest that ONNX Runtime promises to run.
OLDEST = 7
#: The last whose Resize has no attribute for where it measures from.
CORNERS = 10


def version(model: onnx.ModelProto) -> int:
    """Opset of ONNX's own operators; 0 where the file names none."""
    return next((entry.version for entry in model.opset_import if entry.domain in reading.STANDARD), 0)


def require_known(model: onnx.ModelProto, path: Path) -> None:
    """Raise UserError where ONNX Runtime does not promise to run the opset."""
    if version(model) < OLDEST:
        raise UserError(
            f"{path}: opset {version(model)}; needed: {OLDEST} or newer; {reading.AGAIN} with opset {OPSET}"
        )


def current(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model in opset 18, or as it is up to 20. Raises UserError where the converter cannot do it."""
    opset = version(model)
    target = min(max(opset, OPSET), NEWEST)
    if opset != target:
        model.ir_version = max(model.ir_version, reading.IR_VERSION)
        try:
            model = onnx.version_converter.convert_version(model, target)
        except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
            raise UserError(
                f"{path}: opset {opset} cannot be converted to {target}: {reading.line(error)}; {reading.AGAIN} with "
                f"opset {OPSET}"
            ) from error
    if opset <= CORNERS:
        _measure_from_corners(model)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", target))
    return model


def _measure_from_corners(model: onnx.ModelProto) -> None:
    """Say of every Resize what opset 10 meant. ONNX Runtime rounds up there where an image shrinks, else down."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in model.graph.node:
        if node.op_type != "Resize":
            continue
        scales = constants.get(node.input[2]) if len(node.input) > 2 else None
        shrinks = scales is not None and bool((numpy_helper.to_array(scales) < 1).any())
        said = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil" if shrinks else "floor"}
        kept = [attribute for attribute in node.attribute if attribute.name not in said]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in said.items())])
