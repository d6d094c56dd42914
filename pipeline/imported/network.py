"""Read an imported network and simplify it: one head, fixed sizes, a current opset, folded constants, unique names.

ONNX Runtime's basic optimisation uses standard operators only. It folds values that depend only on the image size,
branches with a constant condition, and batch normalisation into the convolution before it. ONNX's converter updates old
operators. This removes the superfluous nodes of exporters before quantisation. :mod:`pipeline.imported.parity` checks
that the results are still the same.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import UserError
from pipeline.export.onnx_file import strip_traces
from pipeline.imported import floats, opset, output, reading
from pipeline.imported.description import Description
from pipeline.imported.names import rename, unused
from pipeline.imported.output import Form

#: Axes of an NCHW tensor in the order NHWC, and back.
TO_NHWC, TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]


@dataclass(frozen=True)
class Network:
    """A network from ``IMAGE``, float32 (1, 3, H, W), to ``RESULT``.

    Attributes:
        model: opset 18 to 20.
        description: its description, with a mean and std that suit the type of the image.
        input_size: (height, width).
        form: of the result, which is float32 for logits and int32 or int64 for ids.
        probabilities: whether a sigmoid computes the result.
        parameters: number of weights.
    """

    model: onnx.ModelProto
    description: Description
    input_size: tuple[int, int]
    form: Form
    probabilities: bool
    parameters: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result: (1, K, h, w) for logits, (1, h, w) for a label map."""
        return self.form.shape


def load(description: Description) -> Network:
    """Read and simplify the ONNX file of a description.

    Raises:
        UserError: see :mod:`pipeline.imported.reading`; a size is not fixed or contradicts the description; the opset
            cannot be converted; the output is not what the description says.
    """
    path = description.model
    model = reading.read(path)
    image = reading.extract(model, path, head=reading.head(model, path, name=description.head))
    reading.require_plain(model, path)
    opset.require_known(model, path)
    size = _fix_size(image, description)
    description = floats.scaled(description, image.type.tensor_type.elem_type)
    floats.in_float32(model)
    model = _folded(model, description, size)
    reading.require_fixed(model, path)
    model = opset.current(model, path)
    floats.take_float(model)
    floats.give_int32(model)
    result = _run(model, description)
    form = output.form(result.shape, result.dtype, description, image=size)
    probabilities = form.channels == 1 and output.gives_probabilities(model)
    _with_layouts(model, description, form, result)
    model = _folded(model, description, size)
    rename(model)
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    parameters = sum(int(np.prod(tensor.dims)) for tensor in weights)
    return Network(model, description, size, form, probabilities, parameters)


def _fix_size(image: onnx.ValueInfoProto, description: Description) -> tuple[int, int]:
    """Set the image's fixed size: one frame, three channels, height and width from the file or the description.

    Returns:
        (height, width).
    """
    nchw = description.layout == "NCHW"
    kind = image.type.tensor_type
    sizes = reading.dims(image) or (0, 0, 0, 0)
    batch = sizes[0] if len(sizes) == 4 else 1
    channels, height, width = sizes[-3:] if nchw else (sizes[-1], *sizes[-3:-1])
    path, described = description.model, description.input_size
    if channels not in (0, 3) or batch not in (0, 1):
        raise UserError(
            f"{path}: input '{image.name}' is {'x'.join(map(str, sizes))}; needed: one frame of three channels, "
            f"{'1x3xHxW' if nchw else '1xHxWx3'} for layout {description.layout}; correct `layout`, or {reading.AGAIN} "
            "with such an input"
        )
    if described is None and not (height and width):
        raise UserError(
            f"{path}: input '{image.name}' has no fixed height or width, and engines need both; add "
            f"`input_size: [height, width]` to {description.file}"
        )
    if described is not None and any(
        in_file not in (0, wanted) for in_file, wanted in zip((height, width), described, strict=True)
    ):
        raise UserError(
            f"{description.file}: input_size: got {list(described)}, but the ONNX file is fixed to {[height, width]}; "
            "write that, or leave input_size out"
        )
    height, width = described or (height, width)
    fixed = (1, 3, height, width) if nchw else (1, height, width, 3)
    del kind.shape.dim[:]
    kind.shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=side) for side in fixed[-len(sizes) :])
    return height, width


def _with_layouts(
    model: onnx.ModelProto, description: Description, form: Form, result: npt.NDArray[np.generic]
) -> None:
    """Change input and output, in place: the image to NCHW, logits to NCHW float32, ids to (1, h, w) integers.

    ONNX Runtime later removes these transposes together with inverse ones of the network.

    Args:
        result: the network's output for any image.
    """
    graph = model.graph
    image, last = graph.input[0], graph.output[0].name
    before: list[onnx.NodeProto] = []
    name, sizes = image.name, reading.dims(image)
    inside = unused(graph, f"{name}_inside")
    if description.layout == "NHWC":
        before.append(_node("Transpose", [name], unused(graph, f"{name}_NHWC"), perm=TO_NHWC))
        name = before[-1].output[0]
    if len(sizes) == 3:
        before.append(_node("Reshape", [name, _constant(graph, sizes)], unused(graph, f"{name}_frame")))
    if before:
        before[-1].output[0] = inside
        for node in graph.node:
            node.input[:] = [inside if each == image.name else each for each in node.input]
        height, width = sizes[-3:-1] if description.layout == "NHWC" else sizes[-2:]
        del image.type.tensor_type.shape.dim[:]
        image.type.tensor_type.shape.dim.extend(
            onnx.TensorShapeProto.Dimension(dim_value=side) for side in (1, 3, height, width)
        )
    after: list[onnx.NodeProto] = []

    def then(operator: str, *more: str, **settings: Any) -> None:
        source = after[-1].output[0] if after else last
        after.append(_node(operator, [source, *more], unused(graph, f"{last}_{len(after)}"), **settings))

    if form.channels and result.dtype != np.float32:
        result = result.astype(np.float32)
        then("Cast", to=TensorProto.FLOAT)
    elif not form.channels:
        if result.dtype.kind == "f":
            then("Round")
        if result.dtype not in (np.int32, np.int64):
            then("Cast", to=TensorProto.INT32)  # TensorRT supports neither bytes nor bools between layers
    if result.shape != form.file_shape:
        then("Reshape", _constant(graph, form.file_shape))
    if form.last:
        then("Transpose", perm=TO_NCHW)
    graph.node.extend(after)
    if after:
        graph.output[0].name = after[-1].output[0]
    kind = TensorProto.FLOAT if form.channels else TensorProto.INT32
    graph.output[0].type.tensor_type.elem_type = TensorProto.INT64 if result.dtype == np.int64 else kind
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _constant(graph: onnx.GraphProto, sizes: tuple[int, ...]) -> str:
    name = unused(graph, f"sizes_{len(graph.initializer)}")
    graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
    return name


def _node(operator: str, inputs: list[str], result: str, **settings: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [result], name=result, **settings)


def _folded(model: onnx.ModelProto, description: Description, size: tuple[int, int]) -> onnx.ModelProto:
    """The model after ONNX Runtime's basic optimisation: standard operators, folded constants."""
    standard = [entry for entry in model.opset_import if entry.domain in reading.STANDARD]
    model.ir_version = max(model.ir_version, helper.find_min_ir_version_for(standard))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "folded.onnx"
        options.optimized_model_filepath = str(file)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own exception types, one per status code
            advice = f"choose another input_size in {description.file}, or " if description.input_size else ""
            raise UserError(
                f"{description.model}: ONNX Runtime {onnxruntime.__version__} cannot run it at {size[0]}x{size[1]}: "
                f"{reading.line(error)}; {advice}{reading.AGAIN} in float32 with standard operators"
            ) from error
        folded = onnx.load(file)
    del folded.opset_import[:]
    folded.opset_import.extend(standard)
    folded.ir_version = helper.find_min_ir_version_for(standard)
    strip_traces(folded)
    folded.producer_name = "segpress"
    folded.producer_version = ""
    return folded


def _run(model: onnx.ModelProto, description: Description) -> npt.NDArray[Any]:
    """The network's output for a black image."""
    image = np.zeros(reading.dims(model.graph.input[0]), np.float32)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {model.graph.input[0].name: image})[0])
    except Exception as error:  # see above
        raise UserError(
            f"{description.model}: ONNX Runtime {onnxruntime.__version__} cannot run it at "
            f"{'x'.join(map(str, image.shape))}: {reading.line(error)}; {reading.AGAIN}"
        ) from error
