"""Convert a network to an opset that every target supports, without changing what it computes.

ONNX's converter misses one change (onnx/onnx#8480): Upsample, and Resize up to opset 10, measure positions from the
corner of a pixel; Resize since opset 11 measures from the centre, unless an attribute says otherwise.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper, numpy_helper

from pipeline.errors import UserError
from pipeline.export.onnx_file import OPSET
from pipeline.imported import reading

#: The newest opset that is kept; the TensorRT file has it too.
NEWEST = 20
#: The oldest opset that ONNX Runtime supports.
OLDEST = 7
#: The last opset whose Resize measures from corners.
CORNERS = 10


def version(model: onnx.ModelProto) -> int:
    """Opset of ONNX's own operators; 0 if the file has none."""
    return next((entry.version for entry in model.opset_import if entry.domain in reading.STANDARD), 0)


def require_known(model: onnx.ModelProto, path: Path) -> None:
    """Raise UserError if ONNX Runtime does not support the opset."""
    if version(model) < OLDEST:
        raise UserError(
            f"{path}: opset {version(model)}; needed: {OLDEST} or newer; {reading.AGAIN} with opset {OPSET}"
        )


def current(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model in opset 18, or in its own opset from 18 to 20. Raises UserError if the converter fails."""
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
    """Give every Resize the attributes that opset 10 implies. It rounds up if an image shrinks, else down."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in model.graph.node:
        if node.op_type != "Resize":
            continue
        scales = constants.get(node.input[2]) if len(node.input) > 2 else None
        shrinks = scales is not None and bool((numpy_helper.to_array(scales) < 1).any())
        modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil" if shrinks else "floor"}
        kept = [attribute for attribute in node.attribute if attribute.name not in modes]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in modes.items())])
