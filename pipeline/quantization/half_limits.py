"""Which nodes of a network must stay in float32, because float16 cannot hold their values on real frames.

The largest float16 is 65504, and its steps near zero are 6e-8. ONNX Runtime computes a float16 file in float32 on x86
CPUs, so an overflow happens on GPUs only. Therefore the limits are checked on the values of the float32 graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.frames import Array
from pipeline.quantization import calibration
from pipeline.quantization.graph import Graph
from pipeline.quantization.half import LARGEST, element_types, inline_constants, takes_float16, to_float16

#: Values on other frames may be larger than the measured ones by this factor.
MARGIN = 2.0
#: Twice the smallest normal float16: a tensor whose values are all smaller has fewer than 2048 steps.
SMALLEST = 2.0**-13
#: Smallest variance plus epsilon of a batch normalisation: float16 rounds the variance by up to 2**-25, here 0.4 %.
SMALLEST_VARIANCE = 2.0**-17
#: Operators whose result is a sum that is linear in each input. On absolute values they give the sum of magnitudes.
SUMS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "ReduceSum", "CumSum")
#: Operators that add and then divide.
MEANS = ("ReduceMean", "GlobalAveragePool", "AveragePool")
#: Operators that add squares.
SQUARES = ("ReduceL2", "ReduceSumSquare")
#: Operators that divide by a sum of squares of their first input. Some runtimes compute these squares in float16.
NORMALISERS = (
    *("InstanceNormalization", "GroupNormalization", "LayerNormalization", "MeanVarianceNormalization"),
    *("LpNormalization", "LRN"),
)
#: Operators that may make a small value large.
FACTORS = ("Mul", "Div", "Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum")
#: Operators for which a large constant is only a bound, so that the largest float16 can replace it.
BOUNDED = ("Clip", "Min", "Max")
#: Index of the input that makes the result infinite when float16 rounds this input to zero.
DIVISORS = {"Div": 1, "Reciprocal": 0, "Sqrt": 0, "Log": 0}
#: Suffixes of the names of tensors that exist only for measuring.
MAGNITUDES, TERMS = "|magnitudes", "|terms"

Constants = Mapping[str, npt.NDArray[Any]]


def in_float16(model: onnx.ModelProto, frames: Sequence[Array]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A float16 copy of a float32 deploy graph that does not overflow.

    Returns:
        the copy, and the nodes that stay in float32, each with its reason.
    """
    kept = float32_nodes(model, measure(model, frames))
    half = onnx.ModelProto()
    half.CopyFrom(model)
    to_float16(half, float32=kept)
    return half, kept


def summary(kept: Mapping[str, str], *, limit: int = 5) -> str:
    """One line about the nodes that stay in float32; empty when there are none."""
    if not kept:
        return ""
    shown = [f"{name} ({reason})" for name, reason in list(kept.items())[:limit]]
    more = f" and {len(kept) - limit} more" if len(kept) > limit else ""
    return f"in float32, because float16 cannot hold the values: {', '.join(shown)}{more}"


@dataclass
class Extremes:
    """The extreme float32 values of a graph on some frames.

    Attributes:
        largest: for each tensor: the largest magnitude.
        smallest: for each tensor that is a divisor: the smallest magnitude that is not zero.
        terms: for each node that adds: the largest sum of magnitudes. No partial sum exceeds it, in any order.
    """

    largest: dict[str, float] = field(default_factory=dict)
    smallest: dict[str, float] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)

    def reach(self, largest: Mapping[str, float]) -> None:
        """Add other measurements: the larger value of each tensor counts."""
        for name, value in largest.items():
            self.largest[name] = max(value, self.largest.get(name, 0.0))


def measure(model: onnx.ModelProto, frames: Sequence[Array]) -> Extremes:
    """Extremes of every float32 tensor that a node computes.

    Args:
        model: a deploy graph in float32; it is not changed.
        frames: (H, W, 3) BGR uint8 of its input size.
    """
    graph, added = _with_terms(model)
    kinds, constants = element_types(graph.model), _constants(graph)
    results = (name for node in graph.nodes for name in node.output)
    measured = [name for name in results if kinds.get(name) == TensorProto.FLOAT and not name.endswith(MAGNITUDES)]
    divisors = {divisor for node in graph.nodes if (divisor := _divisor(node, constants))}
    extremes = Extremes()
    for piece in calibration.pieces(graph, measured):
        session = calibration.session(piece)
        for frame in frames:
            for name, value in calibration.activations([session], frame):
                magnitudes = np.abs(value)
                most = float(magnitudes.max(initial=0.0))
                if name in added:
                    node, count = added[name]
                    extremes.terms[node] = max(most * count, extremes.terms.get(node, 0.0))
                    continue
                extremes.reach({name: most})
                if name in divisors:
                    least = float(magnitudes[magnitudes > 0].min(initial=math.inf))
                    extremes.smallest[name] = min(least, extremes.smallest.get(name, math.inf))
    return extremes


def float32_nodes(model: onnx.ModelProto, extremes: Extremes) -> dict[str, str]:
    """Names of the nodes that do not work in float16, each with its reason.

    A node stays in float32 if a tensor that it reads or writes is too large, too small, or a divisor that may become
    zero; if a partial sum inside it may overflow; or if float16 cannot hold its constant.
    """
    graph = Graph(_copy(model))
    kinds, constants = element_types(graph.model), _constants(graph)
    small = _Small(graph, extremes.largest, constants)
    unfit = {name: reason for name, reason in _unfit_tensors(extremes) if not small.is_harmless(name)}
    kept = {}
    for node in graph.nodes:
        slots = [
            *((name, takes_float16(node, index, graph.model)) for index, name in enumerate(node.input)),
            *((name, takes_float16(node, index, graph.model, output=True)) for index, name in enumerate(node.output)),
        ]
        names = [name for name, half in slots if half and kinds.get(name) == TensorProto.FLOAT]
        reasons = [
            *(unfit[name] for name in names if name in unfit),
            *(
                reason
                for name in names
                if name in constants
                for reason in _unfit_constant(node, name, constants, small)
            ),
        ]
        if names and not extremes.terms.get(node.name, 0.0) <= LARGEST:
            reasons.append(f"its terms add up to {extremes.terms[node.name]:.3g}")
        if node.op_type in NORMALISERS:
            reasons += _unfit_squares(node.input[0], extremes)
        if reasons:
            kept[node.name] = reasons[0]
    return kept


def _unfit_tensors(extremes: Extremes) -> Iterator[tuple[str, str]]:
    for name, least in extremes.smallest.items():
        if least < SMALLEST:
            yield name, f"'{name}' is a divisor and gets as small as {least:.2g}"
    for name, most in extremes.largest.items():
        if not most * MARGIN <= LARGEST:  # NaN as well
            yield name, f"'{name}' reaches {most:.3g}"
        elif 0 < most < SMALLEST:
            yield name, f"'{name}' reaches only {most:.2g}"


def _unfit_squares(name: str, extremes: Extremes) -> Iterator[str]:
    most = extremes.largest.get(name, 1.0)
    if not (most * MARGIN) ** 2 <= LARGEST:  # NaN as well
        yield f"squares of '{name}' reach {most**2:.3g}"
    elif 0 < most**2 < SMALLEST_VARIANCE:
        yield f"squares of '{name}' reach only {most**2:.2g}"


def _unfit_constant(node: onnx.NodeProto, name: str, constants: Constants, small: _Small) -> Iterator[str]:
    """Why float16 cannot hold a constant that a node reads; nothing if it can. Float16 has infinity too."""
    magnitudes = np.abs(constants[name][np.isfinite(constants[name])])
    most = float(magnitudes.max(initial=0.0))
    least = float(magnitudes[magnitudes > 0].min(initial=math.inf))
    if most > LARGEST and node.op_type not in BOUNDED:
        yield f"constant '{name}' holds {most:.3g}"
    elif 0 < most < SMALLEST and small.counts_in(node, name):
        yield f"constant '{name}' holds at most {most:.2g}"
    elif name == _divisor(node, constants) and least < SMALLEST:
        yield f"constant '{name}' is a divisor and holds {least:.2g}"
    elif node.op_type == "BatchNormalization" and name == node.input[4]:
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        if (variance := float(magnitudes.min(initial=math.inf)) + epsilon) < SMALLEST_VARIANCE:
            yield f"variance '{name}' is as small as {variance:.2g}"


class _Small:
    """Which small values matter: those that a later node multiplies, normalises or compares.

    Weight decay leaves 1e-20 and less of the weights that a network does not use; float16 may round these to zero.
    """

    def __init__(self, graph: Graph, largest: Mapping[str, float], constants: Constants) -> None:
        self.graph = graph
        self.largest = largest
        self.constants = constants
        self.known: dict[str, bool] = {}

    def is_harmless(self, name: str) -> bool:
        """Whether a tensor is so small that float16 loses it, and this does not matter."""
        return 0 < self.largest.get(name, 0.0) < SMALLEST and not self.counts(name)

    def counts(self, name: str) -> bool:
        """Whether a small tensor matters to any node that reads it."""
        if name not in self.known:
            self.known[name] = any(self.counts_in(node, name) for node in self.graph.consumers.get(name, ()))
        return self.known[name]

    def counts_in(self, node: onnx.NodeProto, name: str) -> bool:
        """Whether a small tensor or constant changes the output of a node."""
        output = node.output[0]
        if output not in self.largest:  # integers: an argmax or a comparison
            return node.op_type not in ("Shape", "Size")
        if self.largest[output] < SMALLEST:
            return self.largest[output] > 0 and self.counts(output)
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and node.input[1] in self.constants:
            gain = float(np.abs(self.constants[node.input[1]]).sum())
            return name in node.input[:2] and self.largest.get(node.input[0], 0.0) * gain >= SMALLEST
        return node.op_type in FACTORS or node.op_type.endswith("Normalization")


def _divisor(node: onnx.NodeProto, constants: Constants) -> str | None:
    """The input of a node that must not become zero."""
    if node.op_type == "Pow":
        exponent = constants.get(node.input[1])
        return node.input[0] if exponent is not None and (exponent < 1).any() else None
    return node.input[DIVISORS[node.op_type]] if node.op_type in DIVISORS else None


def _constants(graph: Graph) -> Constants:
    tensors = (tensor for tensor in graph.model.graph.initializer if tensor.data_type == TensorProto.FLOAT)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inline_constants(copy)
    return onnx.shape_inference.infer_shapes(copy)


def _with_terms(model: onnx.ModelProto) -> tuple[Graph, dict[str, tuple[str, float]]]:
    """The graph with an extra tensor for each node that adds: the sum of the magnitudes of its terms.

    Returns:
        the graph, and for each extra tensor: the name of its node, and the factor to multiply the tensor with.
    """
    graph = Graph(_copy(model))
    kinds, constants = element_types(graph.model), _constants(graph)
    nodes: list[onnx.NodeProto] = []
    added: dict[str, tuple[str, float]] = {}
    copies = set[str]()

    def magnitudes(name: str) -> str:
        if kinds.get(name) != TensorProto.FLOAT:
            return name
        copy = name + MAGNITUDES
        if copy not in copies and name in constants:
            graph.model.graph.initializer.append(numpy_helper.from_array(np.abs(constants[name]), copy))
        elif copy not in copies:
            nodes.append(helper.make_node("Abs", [name], [copy], name=copy))
        copies.add(copy)
        return copy

    for node in graph.nodes:
        nodes.append(node)
        if node.op_type not in (*SUMS, *MEANS, *SQUARES) or kinds.get(node.output[0]) != TensorProto.FLOAT:
            continue
        terms = onnx.NodeProto()
        terms.CopyFrom(node)
        terms.name = terms.output[0] = node.output[0] + TERMS
        count = 1.0
        if node.op_type in SQUARES:
            terms.op_type = "ReduceSumSquare"
        else:
            terms.input[:] = [magnitudes(name) for name in node.input]
        if node.op_type == "ReduceMean":
            terms.op_type = "ReduceSum"
        elif node.op_type == "GlobalAveragePool":
            count = float(math.prod(graph.shapes.get(node.input[0], ())[2:]))
        elif node.op_type == "AveragePool":
            count = float(math.prod(next(a.ints for a in node.attribute if a.name == "kernel_shape")))
        nodes.append(terms)
        added[terms.name] = (node.name, count)
    del graph.model.graph.node[:]
    graph.model.graph.node.extend(nodes)
    return Graph(onnx.shape_inference.infer_shapes(graph.model)), added
