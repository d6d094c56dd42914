"""Reading a deploy graph: which part is the network, which tensors are activations."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import numpy_helper

from pipeline.errors import UserError

#: Layers that hold weights and profit from INT8.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
CONVOLUTIONS = ("Conv", "ConvTranspose")
#: Matrix products whose constant has a side shorter than this stay in float: they have no fast kernel, and pooling
#: matrices are among them.
SMALLEST_MATRIX = 16
#: Operators without weights that have 8-bit kernels or pass 8 bits through.
INTEGER = ("Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize")
#: Operators that fuse with the layer before them.
FUSED = ("Relu", "Clip")
#: Operators that only move values; their time hardly depends on the data type.
MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Shape", "Constant")
#: Pooling over the whole image. Adaptive pooling into bins is not among them: it is a pair of matrix products.
POOLING = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean")
#: Weight of the 1x1 convolution that normalises the frame (``export.graphs.normaliser``).
NORMALISER = "normalise.weight"
#: Prefix of the names of all weights in graphs that we exported.
OURS = "network.net."


def output_axis(layer: onnx.NodeProto, rank: int) -> int:
    """Index of the output channels' axis in a layer's weight, which has ``rank`` axes."""
    if layer.op_type == "Conv" or any(a.name == "transB" and a.i for a in layer.attribute):
        return 0
    return 1 if layer.op_type == "ConvTranspose" else rank - 1


def input_axis(layer: onnx.NodeProto) -> int:
    """Index of the channels' axis in the input of a weighted layer."""
    return 1 if layer.op_type in CONVOLUTIONS else -1


@dataclass(frozen=True)
class Graph:
    """An ONNX graph with the look-ups that placement needs. Nodes are in topological order, as ONNX requires."""

    model: onnx.ModelProto

    def copy(self) -> Graph:
        """A copy that may be changed."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        return Graph(model)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        return list(self.model.graph.node)

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self.model.graph.node for name in node.output}

    @cached_property
    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.model.graph.node:
            for name in node.input:
                consumers[name].append(node)
        return consumers

    @cached_property
    def depth(self) -> dict[str, int]:
        """Nodes on the longest path from the input to each tensor."""
        depth: dict[str, int] = defaultdict(int)
        for node in self.model.graph.node:
            for name in node.output:
                depth[name] = 1 + max((depth[source] for source in node.input), default=0)
        return depth

    @cached_property
    def body(self) -> list[onnx.NodeProto]:
        """The network itself: the weighted layers and every node on a path between two of them.

        The nodes before them are preprocessing, the nodes after them are upsampling and argmax; neither is quantised.
        """
        weighted = {node.name for node in self.nodes if self.is_weighted(node)}
        if not weighted:
            raise UserError("the graph has no convolution or matrix product with weights; there is nothing to quantise")
        after_layer: set[str] = set()  # tensors that depend on a weighted layer
        for node in self.nodes:
            if node.name in weighted or any(name in after_layer for name in node.input):
                after_layer.update(node.output)
        before_layer: set[str] = set()  # tensors on which a weighted layer depends
        for node in reversed(self.nodes):
            if node.name in weighted or any(name in before_layer for name in node.output):
                before_layer.update(node.input)
                before_layer.update(node.output)
        return [
            node
            for node in self.nodes
            if any(name in after_layer for name in node.output)
            and (node.name in weighted or any(name in before_layer for name in node.output))
        ]

    @property
    def normaliser(self) -> onnx.NodeProto | None:
        """The convolution that turns BGR pixels into normalised RGB; None in graphs that we did not export."""
        return next((node for node in self.nodes if NORMALISER in node.input), None)

    @property
    def normalised(self) -> list[onnx.NodeProto]:
        """The nodes that read the normaliser's output."""
        return self.consumers[self.normaliser.output[0]] if self.normaliser is not None else []

    @property
    def layers(self) -> list[onnx.NodeProto]:
        """The weighted layers of the network, in order."""
        return [node for node in self.body if self.is_weighted(node)]

    @cached_property
    def titles(self) -> dict[str, str]:
        """The title of each weighted layer in reports, by node name.

        It is the name of the module that holds the weight, such as ``encoder.layer1.0.conv1``, or the name of the node
        (``node_Conv_407``) if the weight has no such name or belongs to several layers.
        """
        uses = Counter(layer.input[1] for layer in self.layers)
        titles = {}
        for layer in self.layers:
            weight = layer.input[1]
            module = weight.removeprefix(OURS).removesuffix(".weight")
            names_module = weight.endswith(".weight") and uses[weight] == 1
            titles[layer.name] = module if names_module else layer.name.removeprefix(OURS)
        return titles

    @property
    def sums(self) -> list[onnx.NodeProto]:
        """The nodes of the network that add two activations."""
        return [n for n in self.body if n.op_type == "Add" and self.initializers.keys().isdisjoint(n.input)]

    @property
    def classifier(self) -> onnx.NodeProto:
        """The last weighted layer; its output holds the logits."""
        return self.layers[-1]

    def without_integers(self, float_nodes: Collection[str]) -> set[str]:
        """``float_nodes``, and the nodes between layers whose values come from float layers only.

        8 bits would cost accuracy there and save no time.
        """
        floats = set(float_nodes)
        after_integer: dict[str, bool] = {}  # tensor -> whether its values come from a quantised layer
        for node in self.body:
            if self.is_weighted(node):
                integer = node.name not in floats
            else:
                integer = any(after_integer.get(name, False) for name in node.input)
                if not integer:
                    floats.add(node.name)
            after_integer.update(dict.fromkeys(node.output, integer))
        return floats

    def is_first(self, layer: onnx.NodeProto) -> bool:
        """Whether no other weighted layer of the network comes before this one."""
        return layer.input[0] not in {name for node in self.body for name in node.output}

    @cached_property
    def pooled(self) -> set[str]:
        """Tensors between a pooling over the whole image and the upsampling that undoes it.

        They have one position, so a layer on them is a product with a vector and gains nothing from 8 bits. Their
        values are means, and a rounding error in them shifts the whole image.
        """
        pooled: set[str] = set()
        for node in self.body:
            names = [name for name in node.input if name in pooled]
            if self._pools(node) or (names and self._area(node.output[0]) == self._area(names[0])):
                pooled.update(node.output)
        return pooled

    def _pools(self, node: onnx.NodeProto) -> bool:
        source, pooled = node.input[0], node.output[0]
        spatial = len(self.shapes.get(source, ())) == 4 and self._area(source) > 1
        return node.op_type in POOLING and spatial and self._area(pooled) == 1

    def _area(self, name: str) -> int:
        return math.prod(self.shapes.get(name, ())[2:])

    def is_weighted(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a layer of the network whose weight is worth quantising."""
        if node.op_type not in WEIGHTED or len(node.input) < 2 or node.input[1] not in self.initializers:
            return False
        if node.op_type in ("Gemm", "MatMul"):
            return bool(min(self.initializers[node.input[1]].dims) >= SMALLEST_MATRIX)
        return NORMALISER not in node.input

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor whose shape is known and fixed."""
        shapes = {}
        for value in (*self.model.graph.value_info, *self.model.graph.input, *self.model.graph.output):
            dims = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            if all(dims):
                shapes[value.name] = dims
        return shapes

    def float_activations(self) -> list[str]:
        """Tensors that can be quantised: float inputs and outputs of the network's body, in order."""
        types = {v.name: v.type.tensor_type.elem_type for v in (*self.model.graph.value_info, *self.model.graph.input)}
        names = dict.fromkeys(
            name
            for node in self.body
            for name in (*node.input, *node.output)
            if name and name not in self.initializers and types.get(name) == onnx.TensorProto.FLOAT
        )
        return list(names)

    def weights_finite(self) -> None:
        """Raise UserError when a weight is NaN or infinite."""
        for name, tensor in self.initializers.items():
            if tensor.data_type == onnx.TensorProto.FLOAT and not np.isfinite(numpy_helper.to_array(tensor)).all():
                raise UserError(f"weight '{name}' holds NaN or infinity; train the network again before quantising it")


def in_float(plain: Graph, placed: onnx.ModelProto, *, float_nodes: Collection[str]) -> dict[str, int]:
    """How many operators of each type a placement left in float inside the network, without ``float_nodes``."""
    body = {node.name for node in plain.body}.difference(float_nodes)
    dequantised = {name for node in placed.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    integer: set[str] = set()  # outputs of nodes that run in 8 bits
    counts: Counter[str] = Counter()
    for node in placed.graph.node:
        if node.op_type in WEIGHTED:
            is_integer = dequantised.issuperset(node.input[:2])  # the activation and the weight
        elif node.op_type in FUSED:
            is_integer = node.input[0] in dequantised | integer
        else:
            is_integer = node.op_type in INTEGER and not dequantised.isdisjoint(node.input)
        if is_integer:
            integer.update(node.output)
        elif node.name in body and node.op_type not in MOVES:
            counts[node.op_type] += 1
    return dict(sorted(counts.items()))


def load(path: str) -> Graph:
    """Read an ONNX file and infer the shape and type of every tensor."""
    return Graph(onnx.shape_inference.infer_shapes(onnx.load(path)))
