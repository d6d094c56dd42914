"""Opening a foreign ONNX file: whole, float32, one image in, and only what can be quantised and converted.

What a file may not hold is refused here with what to do about it, before anything is computed with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, inliner, numpy_helper

from pipeline.errors import Faults, UserError, closest

AGAIN = "export the network again"
#: Operators that run other graphs inside themselves.
NESTED = ("If", "Loop", "Scan", "SequenceMap")
#: Operators of a network that was quantised already.
QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
STANDARD = ("", "ai.onnx")


def read(path: Path) -> onnx.ModelProto:
    """A valid file with all its weights in memory. Raises UserError: missing, damaged, or without its weights."""
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `model` in the description names it, beside that file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; `model` in the description names the .onnx file") from None
    except DecodeError as error:
        raise UserError(f"{path}: not an ONNX file, or a damaged one ({error}); fetch or {AGAIN}") from error
    if not model.graph.node:
        raise UserError(f"{path}: holds no network; fetch or {AGAIN}")
    _load_external(model, path)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise UserError(f"{path}: not valid ONNX: {_line(error)}; {AGAIN}") from error
    if model.functions:
        model = inliner.inline_local_functions(model)
    return model


def require_plain(model: onnx.ModelProto, path: Path) -> None:
    """Raise UserError, all faults at once, where the part in use has operators or weights that cannot be handled."""
    faults = Faults(str(path))
    for message in (*_operator_faults(model), *_weight_faults(model)):
        faults.add(message)
    faults.raise_if_any()


def image_input(model: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    """The one input of the network; weights that old files list among the inputs are none.

    Raises:
        UserError: several, or not four dimensions of float32.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise UserError(
            f"{path}: {len(inputs)} inputs ({_names(inputs)}); needed: one image; {AGAIN} without the others"
        )
    image: onnx.ValueInfoProto = inputs[0]
    kind = image.type.tensor_type.elem_type
    if kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        raise UserError(
            f"{path}: input '{image.name}' is {_type(kind)}; {AGAIN} in float32: ranges and INT8 weights need it, and "
            "the float16 file is made here"
        )
    if kind != TensorProto.FLOAT or len(image.type.tensor_type.shape.dim) != 4:
        raise UserError(f"{path}: input {_described(image)}; needed: float32 with four dimensions; {AGAIN} so")
    return image


def head(model: onnx.ModelProto, path: Path, *, name: str | None) -> onnx.ValueInfoProto:
    """The output that the description names, or the only one. Raises UserError when there is none of that name."""
    outputs: dict[str, onnx.ValueInfoProto] = {value.name: value for value in model.graph.output}
    if name is None:
        if len(outputs) == 1:
            return next(iter(outputs.values()))
        told = "; ".join(_described(value) for value in outputs.values())
        raise UserError(f"{path}: {len(outputs)} outputs ({told}); name the one to use in the description: `head: ...`")
    if name not in outputs:
        raise UserError(f"{path}: head: no output '{name}'; {closest(name, outputs)}")
    return outputs[name]


def dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Sizes of a tensor; 0 where the file leaves one open."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    """Weights that lie in files beside the model; those must be there, and beside it."""
    faults = Faults(str(path))
    constants = (attribute.t for node in model.graph.node for attribute in node.attribute if attribute.HasField("t"))
    for tensor in (*model.graph.initializer, *constants):
        if not onnx.external_data_helper.uses_external_data(tensor):
            continue
        location = onnx.external_data_helper.ExternalDataInfo(tensor).location
        place = (path.parent / location).resolve()
        if PurePosixPath(location).is_absolute() or not place.is_relative_to(path.parent.resolve()):
            faults.add(f"weight '{tensor.name}' lies outside the model's folder ({location}); it is not read")
        elif not place.is_file():
            faults.add(f"weight '{tensor.name}' lies in '{location}', which is not there")
    faults.raise_if_any(advice="put the data file beside the .onnx file, or export with the weights inside")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, ValueError, OSError) as error:
        raise UserError(f"{path}: its external data cannot be read ({_line(error)}); fetch or {AGAIN}") from error


def _operator_faults(model: onnx.ModelProto) -> Iterator[str]:
    foreign = {node.op_type: node for node in model.graph.node if node.domain not in STANDARD}
    for name, node in sorted(foreign.items()):
        yield (
            f"operator {node.domain}.{name} (node '{node.name}') is not ONNX's own; {AGAIN} with standard operators, "
            "before any optimisation for one runtime"
        )
    kinds = {node.op_type: node for node in model.graph.node if node.domain in STANDARD}
    for name in sorted(set(QUANTISED).intersection(kinds)):
        yield f"operator {name} (node '{kinds[name].name}'): the network is quantised already; give the float one"
    for name in sorted(set(NESTED).intersection(kinds)):
        yield (
            f"operator {name} (node '{kinds[name].name}') decides at run time what to compute; {AGAIN} with a fixed "
            "input size"
        )


def _weight_faults(model: onnx.ModelProto) -> Iterator[str]:
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
            yield f"weight '{tensor.name}' is {_type(tensor.data_type)}; {AGAIN} in float32"
        elif tensor.data_type == TensorProto.FLOAT and not np.isfinite(numpy_helper.to_array(tensor)).all():
            yield f"weight '{tensor.name}' holds NaN or infinity; {AGAIN} from a checkpoint that works"


def _described(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    sizes = [str(dim.dim_value or dim.dim_param or "?") for dim in tensor.shape.dim]
    return f"'{value.name}' {_type(tensor.elem_type)} {'x'.join(sizes) or 'of unknown shape'}"


def _type(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)).lower()


def _names(values: list[onnx.ValueInfoProto]) -> str:
    return ", ".join(value.name for value in values)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
