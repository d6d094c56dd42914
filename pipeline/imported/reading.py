"""Open the ONNX file of an imported network and check it: complete, one image as input, one head, usable operators.

A file that cannot be quantised or converted is refused here, before any computation; the message says what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, external_data_helper, inliner, numpy_helper

from pipeline.artifact import files_hash, sha256
from pipeline.errors import Problems, UserError, closest

AGAIN = "export the network again"
#: Operators that run other graphs inside themselves.
NESTED = ("If", "Loop", "Scan", "SequenceMap")
#: Operators of a network that is already quantised.
QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
STANDARD = ("", "ai.onnx")
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
#: Types that an image may have: floats, and integers that hold pixels.
IMAGES = (
    *(*FLOATS, TensorProto.DOUBLE),
    *(TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
)
#: The first IR version that does not list weights among the inputs; ONNX's converter accepts no older one.
IR_VERSION = 4
#: Largest size of a protobuf message, in bytes.
LARGEST_FILE = 2**31 - 1


def read(path: Path) -> onnx.ModelProto:
    """Read a valid model with all its weights in memory, and without weights among its inputs.

    Raises:
        UserError: the file is missing or damaged, lacks its weights, or has more of them than one file can hold.
    """
    model = whole(path)
    for value in (*model.graph.input, *model.graph.output):  # the checker needs shapes; some exporters write none
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise UserError(f"{path}: not valid ONNX: {line(error)}; {AGAIN}") from error
    if model.functions:
        model = inliner.inline_local_functions(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]  # files of IR 3 list weights there
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


def whole(path: Path) -> onnx.ModelProto:
    """Read the model unchanged, except for external data inside it and unique node names. Raises as :func:`read`."""
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; set `model` in the description to the path of the .onnx file, relative to the "
            "description"
        ) from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; set `model` in the description to the .onnx file") from None
    except DecodeError as error:
        raise UserError(f"{path}: not an ONNX file, or damaged ({error}); copy it again, or {AGAIN}") from error
    if not model.graph.node:
        raise UserError(f"{path}: holds no network; copy it again, or {AGAIN}")
    data = external_files(model, path)
    size = sum(file.stat().st_size for file in (path, *data))
    if size > LARGEST_FILE:
        raise UserError(
            f"{path}: {size / 2**30:.1f} GiB with its external data; allowed: 2 GiB; choose a smaller network, or "
            "export it without weights that no output needs"
        )
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, ValueError, OSError) as error:
        raise UserError(
            f"{path}: its external data cannot be read ({line(error)}); copy it again, or {AGAIN}"
        ) from error
    model.ir_version = max(model.ir_version, IR_VERSION)
    used: set[str] = set()
    for index, node in enumerate(model.graph.node):  # ONNX Runtime needs unique names of nodes; ONNX does not
        if node.name in used:
            node.name = f"{node.name}_{index}"
        used.update([node.name] if node.name else [])
    return model


def external_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """The files with the model's weights, sorted. Raises UserError if one is missing or outside the model's folder."""
    by_location: dict[str, list[str]] = {}  # path in the model -> names of its weights
    for tensor in tensors(model.graph):
        if external_data_helper.uses_external_data(tensor):
            by_location.setdefault(external_data_helper.ExternalDataInfo(tensor).location, []).append(tensor.name)
    problems, files = Problems(str(path)), set[Path]()
    for location, names in by_location.items():
        file = (path.parent / location).resolve()
        subject = f"weight '{names[0]}'" + (f" and {len(names) - 1} more are" if len(names) > 1 else " is")
        if PurePosixPath(location).is_absolute() or not file.is_relative_to(path.parent.resolve()):
            problems.add(
                f"{subject} in '{location}'; allowed: a relative path inside the model's folder; save the model again "
                "with such a `location`"
            )
        elif not file.is_file():
            problems.add(f"{subject} in '{location}', which is missing")
        else:
            files.add(file)
    problems.raise_if_any(advice="put the data file beside the .onnx file, or export with the weights inside")
    return sorted(files)


def hashes(path: Path) -> dict[str, str]:
    """``file``: sha256 of the file; ``data``: hash of its external data, if it has any."""
    data = external_files(onnx.load(path, load_external_data=False), path)
    digests = {"file": sha256(path)}
    if data:
        folder = path.parent.resolve()
        digests["data"] = files_hash({file.relative_to(folder).as_posix(): sha256(file) for file in data})
    return digests


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All constants of a graph and of the graphs inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from tensors(inner)


def head(model: onnx.ModelProto, path: Path, *, name: str | None) -> onnx.ValueInfoProto:
    """The output that the description names, or the only one. Raises UserError if there is no such output."""
    outputs: dict[str, onnx.ValueInfoProto] = {value.name: value for value in model.graph.output}
    if name is None:
        if len(outputs) > 1:
            listed = "; ".join(_described(value) for value in outputs.values())
            raise UserError(
                f"{path}: {len(outputs)} outputs ({listed}); write the name of one into the description: `head: ...`"
            )
        name = next(iter(outputs))
    if name not in outputs:
        raise UserError(f"{path}: head: no output '{name}'; {closest(name, outputs)}")
    kind = outputs[name].type.WhichOneof("value")
    if kind not in ("tensor_type", None):
        raise UserError(
            f"{path}: output '{name}' is a {str(kind).removesuffix('_type')}; needed: one tensor; {AGAIN} with that "
            "tensor as output"
        )
    return outputs[name]


def extract(model: onnx.ModelProto, path: Path, *, head: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """Reduce the model to the nodes that the head needs, in place, and return its only input: the image.

    Raises:
        UserError: the head needs several inputs or none, or one that cannot be an image.
    """
    graph = model.graph
    needed, nodes = {head.name}, list[onnx.NodeProto]()
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            nodes.append(node)
            needed.update(_read(node))
    inputs = [value for value in graph.input if value.name in needed]
    if len(inputs) != 1:
        names = f" ({', '.join(value.name for value in inputs)})" if inputs else ""
        raise UserError(
            f"{path}: the output '{head.name}' needs {len(inputs)} inputs{names}; needed: one, the image; {AGAIN} "
            "with the others as constants"
        )
    kind = inputs[0].type.tensor_type
    if kind.elem_type not in IMAGES or len(kind.shape.dim) not in (0, 3, 4):
        raise UserError(
            f"{path}: input {_described(inputs[0])}; needed: an image, three or four dimensions of float32, float16 or "
            f"uint8; {AGAIN} with such an input"
        )
    if not nodes:
        raise UserError(f"{path}: the output '{head.name}' is the image itself; name another `head`, or {AGAIN}")
    output = onnx.ValueInfoProto(name=head.name)
    output.type.tensor_type.elem_type = head.type.tensor_type.elem_type  # without shape: its size may change
    kept = [tensor for tensor in graph.initializer if tensor.name in needed]
    image = inputs[0]
    del graph.node[:], graph.initializer[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(kept)
    graph.input.append(image)
    graph.output.append(output)
    extracted: onnx.ValueInfoProto = graph.input[0]
    return extracted


def require_plain(model: onnx.ModelProto, path: Path) -> None:
    """Raise UserError for all operators and weights of the model that cannot be used."""
    problems = Problems(str(path))
    for message in (*_operator_problems(model), *_weight_problems(model)):
        problems.add(message)
    problems.raise_if_any()


def require_fixed(model: onnx.ModelProto, path: Path) -> None:
    """Raise UserError if, after folding, operators remain that decide at run time what to compute."""
    problems = Problems(str(path))
    kinds = {node.op_type: node for node in model.graph.node if node.domain in STANDARD}
    for name in sorted(set(NESTED).intersection(kinds)):
        problems.add(
            f"operator {name} (node '{kinds[name].name}') decides at run time what to compute, even at a fixed input "
            f"size; {AGAIN} without it: trace the network in eval mode, with its options as constants"
        )
    problems.raise_if_any()


def dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Sizes of a tensor; 0 for a size that is not fixed."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def line(error: Exception) -> str:
    """The message of a library's error in one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the tensors that a node reads, including those that graphs inside it read from outside."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from (value.name for value in inner.output)
            for inside in inner.node:
                yield from _read(inside)


def _operator_problems(model: onnx.ModelProto) -> Iterator[str]:
    nonstandard = {node.op_type: node for node in model.graph.node if node.domain not in STANDARD}
    for name, node in sorted(nonstandard.items()):
        yield (
            f"operator {node.domain}.{name} (node '{node.name}') is not a standard ONNX operator; {AGAIN} with "
            "standard operators, before any optimisation for one runtime"
        )
    kinds = {node.op_type: node for node in model.graph.node if node.domain in STANDARD}
    for name in sorted(set(QUANTISED).intersection(kinds)):
        yield f"operator {name} (node '{kinds[name].name}'): the network is already quantised; use the float network"


def _weight_problems(model: onnx.ModelProto) -> Iterator[str]:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            yield f"weight '{tensor.name}' is {_type(tensor.data_type)}; {AGAIN} in float32"
        elif tensor.data_type in FLOATS and not np.isfinite(numpy_helper.to_array(tensor)).all():
            yield f"weight '{tensor.name}' holds NaN or infinity; {AGAIN} from a checkpoint that works"


def _described(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    sizes = [str(dim.dim_value or dim.dim_param or "?") for dim in tensor.shape.dim]
    return f"'{value.name}' {_type(tensor.elem_type)} {'x'.join(sizes) or 'of unknown shape'}"


def _type(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)).lower()
