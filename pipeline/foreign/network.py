"""The network inside a foreign file: one head, fixed sizes, a current opset, constants folded, names of its own.

ONNX's converter brings old operators up to date, and ONNX Runtime's basic optimisation, which knows standard operators
only, folds what depends on the size alone and batch normalisation into the convolution before it. So exporters' detours
are gone before anything is quantised. That the result still computes the same is measured, not assumed: see
:mod:`pipeline.foreign.parity`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from pipeline.errors import UserError
from pipeline.export.onnx_file import OPSET, strip_traces
from pipeline.foreign import reading
from pipeline.foreign.description import Description

#: The newest opset that stays as it is; the TensorRT file is of this one.
NEWEST = 20
#: The oldest that ONNX Runtime promises to run.
OLDEST = 7
#: Axes of an NCHW tensor in the order NHWC, and back.
TO_NHWC, TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]
#: Tensors of the deploy graph around the network; the network gets other names.
IMAGE, RESULT = "image", "result"
#: What ONNX Runtime puts before the name of a weight into which it folds something; reports go by that name.
FOLDED = ("ConvBnFusion_W_", "ConvMulFusion_W_")
#: Ends of the names that quantisation gives to tensors.
TAKEN_ENDS = ("_scale", "_zero_point", "_q", "_dq", "_quantized", "_int8", "_on_pixels", "_on_pixels_bias")
TAKEN = ("frames", "pixels", "planes", "normalise.weight", "normalise.bias", "size", "bigger", "ids", "shape", "labels")


@dataclass(frozen=True)
class Network:
    """A network between ``IMAGE``, float32 (1, 3, H, W), and ``RESULT``.

    Attributes:
        model: opset 18 to 20.
        input_size: (height, width).
        shape: of the result: (1, K, h, w) for logits, whatever the file has for labels.
        parameters: how many weights it has.
    """

    model: onnx.ModelProto
    input_size: tuple[int, int]
    shape: tuple[int, ...]
    parameters: int


def load(description: Description) -> Network:
    """Read the file that a description names.

    Raises:
        UserError: see :mod:`pipeline.foreign.reading`; sizes that are open or contradict the description, an opset that
            cannot be brought up to date, a number of channels that is not that of the classes.
    """
    path = description.model
    model = reading.read(path)
    image = reading.image_input(model, path)
    head = reading.head(model, path, name=description.head)
    size = _fix_size(image, description)
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")  # it may be of another size now
    del model.graph.value_info[:]
    model = onnx.utils.Extractor(model).extract_model([image.name], [head.name])
    reading.require_plain(model, path)
    model = _current(model, path)
    _with_layouts(model, image.name, head.name, description)
    model = _folded(model, description, size)
    _rename(model)
    shape = _result_shape(model, description)
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    return Network(model, size, shape, sum(int(np.prod(tensor.dims)) for tensor in floats))


def _fix_size(image: onnx.ValueInfoProto, description: Description) -> tuple[int, int]:
    """Give the image its fixed size: one frame, three channels, height and width of the file or the description."""
    nchw = description.layout == "NCHW"
    sizes = reading.dims(image)
    batch, channels, height, width = sizes if nchw else (sizes[0], sizes[3], sizes[1], sizes[2])
    path, given = description.model, description.input_size
    if channels not in (0, 3) or batch not in (0, 1):
        raise UserError(
            f"{path}: input '{image.name}' is {'x'.join(map(str, sizes))}; needed: one frame of three channels, "
            f"{'1x3xHxW' if nchw else '1xHxWx3'} for layout {description.layout}; mend `layout`, or {reading.AGAIN} so"
        )
    if given is None and not (height and width):
        raise UserError(
            f"{path}: input '{image.name}' leaves height or width open, and engines need them fixed; add "
            f"`input_size: [height, width]` to {description.file}"
        )
    if given is not None and any(
        there not in (0, wanted) for there, wanted in zip((height, width), given, strict=True)
    ):
        raise UserError(
            f"{description.file}: input_size: got {list(given)}, but the file is fixed to {[height, width]}; take "
            "that, or leave input_size out"
        )
    height, width = given or (height, width)
    for dim, value in zip(
        image.type.tensor_type.shape.dim, (1, 3, height, width) if nchw else (1, height, width, 3), strict=True
    ):
        dim.dim_value = value
    return height, width


def _current(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model in opset 18, or as it is up to 20."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in reading.STANDARD), 0)
    if opset < OLDEST:
        raise UserError(f"{path}: opset {opset}; needed: {OLDEST} or newer; {reading.AGAIN} with opset {OPSET}")
    target = min(max(opset, OPSET), NEWEST)
    if opset != target:
        try:
            model = onnx.version_converter.convert_version(model, target)
        except (RuntimeError, ValueError) as error:  # it has no type of its own
            told = " ".join(str(error).split())[:300]
            raise UserError(
                f"{path}: opset {opset} cannot be brought to {target}: {told}; {reading.AGAIN} with opset {OPSET}"
            ) from error
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", target))
    return model


def _with_layouts(model: onnx.ModelProto, image: str, head: str, description: Description) -> None:
    """Let the network take NCHW and give NCHW; ONNX Runtime then cancels these transposes against the network's own."""
    graph = model.graph
    if description.layout == "NHWC":
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == image:
                    node.input[index] = f"{image}_NHWC"
        graph.node.insert(0, helper.make_node("Transpose", [image], [f"{image}_NHWC"], name="to_NHWC", perm=TO_NHWC))
        sizes = reading.dims(graph.input[0])
        for dim, axis in zip(graph.input[0].type.tensor_type.shape.dim, TO_NCHW, strict=True):
            dim.dim_value = sizes[axis]
    if description.output == "logits" and description.output_layout == "NHWC":
        graph.node.append(helper.make_node("Transpose", [head], [f"{head}_NCHW"], name="to_NCHW", perm=TO_NCHW))
        graph.output[0].name = f"{head}_NCHW"


def _folded(model: onnx.ModelProto, description: Description, size: tuple[int, int]) -> onnx.ModelProto:
    """The model as ONNX Runtime's basic optimisation leaves it: standard operators, constants folded."""
    model.ir_version = max(model.ir_version, helper.find_min_ir_version_for(model.opset_import))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "folded.onnx"
        options.optimized_model_filepath = str(file)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own types, one for each status code
            told = " ".join(str(error).split())[:300]
            advice = f"; choose another input_size in {description.file}" if description.input_size else ""
            raise UserError(
                f"{description.model}: ONNX Runtime {onnxruntime.__version__} cannot run it at {size[0]}x{size[1]}: "
                f"{told}{advice}"
            ) from error
        folded = onnx.load(file)
    standard = [entry for entry in folded.opset_import if entry.domain in reading.STANDARD]
    del folded.opset_import[:]
    folded.opset_import.extend(standard)
    folded.ir_version = helper.find_min_ir_version_for(standard)
    strip_traces(folded)
    folded.producer_name = "segpress"
    folded.producer_version = ""
    return folded


def _rename(model: onnx.ModelProto) -> None:
    """Image and result get our names, other tensors none that we or quantisation use; every node gets one name."""
    graph = model.graph
    new = {graph.input[0].name: IMAGE, graph.output[0].name: RESULT}
    names = {name for node in graph.node for name in (*node.input, *node.output) if name}
    for name in sorted(names - new.keys()):
        plain = next((name.removeprefix(prefix) for prefix in FOLDED if name.startswith(prefix)), name)
        if plain in (*TAKEN, IMAGE, RESULT) or plain.endswith(TAKEN_ENDS):
            plain = f"{plain}_of_network"
        if plain != name:
            while plain in names or plain in new.values():
                plain += "_"
            new[name] = plain
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = new.get(value.name, value.name)
    used = {*TAKEN, IMAGE, RESULT}  # the nodes around the network are called like what they give
    for index, node in enumerate(graph.node):
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
        if not node.name or node.name in used:
            node.name = f"{node.name or node.op_type}_{index}"
        used.add(node.name)


def _result_shape(model: onnx.ModelProto, description: Description) -> tuple[int, ...]:
    """Shape that the network gives for one image; runs it."""
    image = np.zeros(reading.dims(model.graph.input[0]), np.float32)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        result = session.run(None, {IMAGE: image})[0]
    except Exception as error:  # see above
        told = " ".join(str(error).split())[:300]
        raise UserError(f"{description.model}: does not run at {image.shape[2]}x{image.shape[3]}: {told}") from error
    shape = tuple(int(side) for side in result.shape)
    names = description.labels.names
    where = f"{description.model}: output{f' {description.head!r}' if description.head else ''}"
    told = "x".join(map(str, shape))
    if description.output == "labels":
        if np.issubdtype(result.dtype, np.bool_) or len([side for side in shape if side != 1]) > 2:
            raise UserError(
                f"{where} is {result.dtype} {told}; a label map is one id for each pixel; for a channel a class say "
                "`output: logits`"
            )
    elif len(shape) != 4 or result.dtype != np.float32:
        raise UserError(
            f"{where} is {result.dtype} {told}; logits have four dimensions of float32; for a map of class ids say "
            "`output: labels`"
        )
    elif shape[1] != len(names):
        raise UserError(
            f"{where} has {shape[1]} channels (as NCHW: {told}) and the description names {len(names)} classes "
            f"({', '.join(names)}); name one class a channel, or mend `output_layout`"
        )
    return shape
